// Messages from features of degree up to 2.
#include "message_table_gradient.hpp"

namespace mlip::MLIP_ISA {

const MessageTables message_2[3] = {{}, message_tables<2, 2>, message_tables<2, 3>};

}  // namespace mlip::MLIP_ISA
