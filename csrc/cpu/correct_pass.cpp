// correct_pass on the CPU: a team of one thread for each row.
#include "core/correct_pass.h"

#include "cpu/kernels.h"
#include "cpu/team.h"

namespace MDM_NAMESPACE {

void correct_pass(const CorrectPassParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  Alone team(params.length, scratch);
  for (int64_t row = begin; row < end; ++row) correct_pass_row(params, row, team);
}

}  // namespace MDM_NAMESPACE
