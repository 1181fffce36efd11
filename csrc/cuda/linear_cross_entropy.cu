// The kernels of linear_cross_entropy. Device code alone, for nvcc and NVRTC.
#include "cuda/linear_cross_entropy.cuh"

using mdmcorrect::FloatType;
using mdmcorrect::cuda::kLossThreads;
using mdmcorrect::cuda::LossKernel;
namespace device = mdmcorrect::portable;

#define LOSS_KERNEL extern "C" __global__ void __launch_bounds__(kLossThreads)
// What holds chunks of logits: five blocks to a multiprocessor (budgets.txt).
#define CHUNK_KERNEL extern "C" __global__ void __launch_bounds__(kLossThreads, 5)

LOSS_KERNEL linear_cross_entropy_clear(const __grid_constant__ LossKernel kernel) { device::clear_row(kernel); }
LOSS_KERNEL linear_cross_entropy_name(const __grid_constant__ LossKernel kernel) { device::name_row(kernel); }
LOSS_KERNEL linear_cross_entropy_kept(const __grid_constant__ LossKernel kernel) { device::count_kept(kernel); }
LOSS_KERNEL linear_cross_entropy_pack(const __grid_constant__ LossKernel kernel) { device::pack_row(kernel); }
CHUNK_KERNEL linear_cross_entropy_statistics(const __grid_constant__ LossKernel kernel) {
  device::merge_statistics(kernel);
}
LOSS_KERNEL linear_cross_entropy_losses(const __grid_constant__ LossKernel kernel) { device::write_loss(kernel); }
CHUNK_KERNEL linear_cross_entropy_gradient_float32(const __grid_constant__ LossKernel kernel) {
  device::logits_to_gradient<FloatType::float32>(kernel);
}
CHUNK_KERNEL linear_cross_entropy_gradient_bfloat16(const __grid_constant__ LossKernel kernel) {
  device::logits_to_gradient<FloatType::bfloat16>(kernel);
}
CHUNK_KERNEL linear_cross_entropy_gradient_float16(const __grid_constant__ LossKernel kernel) {
  device::logits_to_gradient<FloatType::float16>(kernel);
}
LOSS_KERNEL linear_cross_entropy_add_hidden_float32(const __grid_constant__ LossKernel kernel) {
  device::add_hidden<FloatType::float32>(kernel);
}
LOSS_KERNEL linear_cross_entropy_add_hidden_bfloat16(const __grid_constant__ LossKernel kernel) {
  device::add_hidden<FloatType::bfloat16>(kernel);
}
LOSS_KERNEL linear_cross_entropy_add_hidden_float16(const __grid_constant__ LossKernel kernel) {
  device::add_hidden<FloatType::float16>(kernel);
}
