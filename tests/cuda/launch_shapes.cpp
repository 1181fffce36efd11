// What the launchers of csrc/cuda ask for at sizes at which nothing can be run here: a line for each launch, after a line
// that names the case. For tests/test_cuda_launches.py.
#include <cstdint>
#include <cstdio>
#include <initializer_list>

#include "cuda/bidirectional_attention.h"
#include "cuda/bidirectional_attention_backward.h"
#include "cuda/correct_pass.h"
#include "cuda/count_positions.h"
#include "cuda/remask_step.h"
#include "cuda/sampler_step.h"
#include "cuda/score_quality.h"
#include "cuda/score_tokens.h"
#include "cuda/select_positions.h"
#include "cuda/uniform.h"

using namespace mdmcorrect;

namespace {

class Recorder final : public cuda::Launcher {
 public:
  void launch(const cuda::Launch& launch, const void*, size_t) override {
    std::printf("%s %u %u %u %u\n", launch.kernel, launch.blocks_x, launch.blocks_y, launch.threads,
                launch.dynamic_bytes);
  }
};

template <class Params>
using Start = void (*)(const Params&, void*, cuda::Launcher&);
template <class Params>
using Bytes = int64_t (*)(const Params&);

template <class Params>
void ask(const char* op, const Params& params, Start<Params> start, Bytes<Params> workspace) {
  Recorder recorder;
  std::printf("case %s %lld\n", op, static_cast<long long>(workspace(params)));
  start(params, nullptr, recorder);
}

template <class Params>
Params rows(int64_t batch, int64_t length) {
  Params params{};
  params.batch = batch;
  params.length = length;
  return params;
}

void ask_all(int64_t batch, int64_t length) {
  ask("select_positions", rows<SelectPositionsParams>(batch, length), cuda::select_positions,
      cuda::select_positions_workspace);
  ask("count_positions", rows<CountPositionsParams>(batch, length), cuda::count_positions,
      cuda::count_positions_workspace);
  ask("remask_step", rows<RemaskStepParams>(batch, length), cuda::remask_step, cuda::remask_step_workspace);
  if (batch == 0 || length > 0) {  // a row without positions is something
    ask("sampler_step", rows<SamplerStepParams>(batch, length), cuda::sampler_step, cuda::sampler_step_workspace);
    ask("correct_pass", rows<CorrectPassParams>(batch, length), cuda::correct_pass, cuda::correct_pass_workspace);
  }
  ask("uniform", rows<UniformParams>(batch, length), cuda::uniform, cuda::uniform_workspace);
  for (const int64_t vocab : {1, 512, 126464, 300000, 8000000}) {
    ScoreTokensParams params = rows<ScoreTokensParams>(batch, length);
    params.row_count = batch * length;
    params.vocab = vocab;
    ask(
        "score_tokens", params, cuda::score_tokens,
        +[](const ScoreTokensParams& scores) { return cuda::score_tokens_workspace(scores); });
  }
  for (const int64_t size : {1, 4096, 16384}) {
    ScoreQualityParams params = rows<ScoreQualityParams>(batch, length);
    params.rows = batch * length;
    params.size = size;
    ask("score_quality", params, cuda::score_quality, cuda::score_quality_workspace);
  }
  for (const int64_t width : {32, 160, 256}) {
    BidirectionalAttentionBackwardParams params{};
    params.forward.batch = batch;
    params.forward.heads = params.forward.kv_heads = 1;
    params.forward.queries = params.forward.keys = length;
    params.forward.width = width;
    params.forward.type = FloatType::bfloat16;
    ask("bidirectional_attention", params.forward, cuda::bidirectional_attention,
        cuda::bidirectional_attention_workspace);
    if (width > cuda::kWidestBackward) continue;
    ask("bidirectional_attention_backward", params, cuda::bidirectional_attention_backward,
        cuda::bidirectional_attention_backward_workspace);
  }
}

}  // namespace

int main() {
  constexpr int64_t kMany = (int64_t{1} << 31) - 1;
  std::puts("empty");
  ask_all(0, 5);
  ask_all(5, 0);
  std::puts("large");
  ask_all(kMany, 1);
  ask_all(1, kMany);
  ask_all(46340, 46340);  // just below 2^31 rows of logits
  return 0;
}
