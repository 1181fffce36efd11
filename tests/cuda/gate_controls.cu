// Kernels with one defect each, which the gates of tests/test_build_cuda.py must refuse; `vectors` has none.
extern "C" __global__ void vectors(const float4* x, float* y) {
  const float4 v = x[threadIdx.x];
  y[threadIdx.x] = v.x + v.y + v.z + v.w;
}
extern "C" __global__ void scalars(const float* x, float* y) {
  y[threadIdx.x] = x[4 * threadIdx.x] + x[4 * threadIdx.x + 1] + x[4 * threadIdx.x + 2] + x[4 * threadIdx.x + 3];
}
extern "C" __global__ void indexed(const float4* x, float* y, int n) {  // an array in local memory
  float own[32];
  for (int i = 0; i < 32; ++i) own[i] = x[i].x + x[i].y * x[i].z - x[i].w;
  for (int i = 0; i < n; ++i) own[(i * n) & 31] += own[i & 31];
  y[threadIdx.x] = own[n & 31];
}
extern "C" __global__ void __launch_bounds__(1024, 2) spilling(const float4* x, float* y, int n) {  // 32 registers
  float4 v[24];
  for (int i = 0; i < 24; ++i) v[i] = x[i * n + threadIdx.x];
  for (int i = 0; i < 24; ++i) y[i * n] = v[i].x * v[23 - i].y + v[(7 * i) % 24].z * v[(5 * i) % 24].w;
}
extern "C" __global__ void hoarding(const float4* x, float* y, int n) {
  float4 v[24];
  for (int i = 0; i < 24; ++i) v[i] = x[i * n + threadIdx.x];
  for (int i = 0; i < 24; ++i) y[i * n] = v[i].x * v[23 - i].y + v[(7 * i) % 24].z * v[(5 * i) % 24].w;
}
extern "C" __global__ void sharing(const float4* x, float* y) {
  __shared__ float4 own[256];
  own[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = own[255 - threadIdx.x].x;
}
