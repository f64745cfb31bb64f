// Messages from features of degree up to 0.
#include "message_table_gradient.hpp"

namespace mlip::MLIP_ISA {

const MessageTables message_0[3] = {message_tables<0, 1>, message_tables<0, 2>, message_tables<0, 3>};

}  // namespace mlip::MLIP_ISA
