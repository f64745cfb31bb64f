// Messages from features of degree up to 1.
#include "message_table_gradient.hpp"

namespace mlip::MLIP_ISA {

const MessageTables message_1[3] = {message_tables<1, 1>, message_tables<1, 2>, message_tables<1, 3>};

}  // namespace mlip::MLIP_ISA
