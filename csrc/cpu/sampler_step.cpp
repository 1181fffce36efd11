// sampler_step on the CPU: a team of one thread for each row.
#include "core/sampler_step.h"

#include "cpu/kernels.h"
#include "cpu/team.h"

namespace MDM_NAMESPACE {

void sampler_step(const SamplerStepParams& params, int64_t begin, int64_t end, uint64_t* scratch) {
  Alone team(params.length, scratch);
  for (int64_t row = begin; row < end; ++row) sampler_step_row(params, row, team);
}

}  // namespace MDM_NAMESPACE
