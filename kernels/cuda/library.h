// cuBLAS and cuDNN, loaded when first used and never linked: a program built with mien runs on machines that lack them, on own kernels.
//
// They are looked for by the loader's own path, in the folders of MIEN_CUDA_LIBRARIES (separated by colons), in the toolkit's folders, and in the `nvidia`
// packages of Python environments.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime.h>
#include <cudnn.h>

#include "mien/kernels/cuda/table.h"
#include "mien/kernels/kernel.h"
#include "mien/kernels/params.h"

namespace mien::cuda {
#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE
void check(cudaError_t status, const char* what);
}  // namespace mien::cuda

namespace mien::cuda_library {

#define MIEN_DECLARE(name) extern const KernelEntry name##_entry;
MIEN_CUDA_LIBRARY_KERNELS(MIEN_DECLARE)
#undef MIEN_DECLARE

struct Cublas {
  decltype(&cublasCreate_v2) create = nullptr;
  decltype(&cublasSetStream_v2) set_stream = nullptr;
  decltype(&cublasSetWorkspace_v2) set_workspace = nullptr;
  decltype(&cublasSetMathMode) set_math_mode = nullptr;
  // Written out: in C++ the header overloads this name.
  cublasStatus_t (*gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int m, int n, int k, const void* alpha, const void* a, cudaDataType, int lda,
                         long long step_a, const void* b, cudaDataType, int ldb, long long step_b, const void* beta, void* c, cudaDataType, int ldc,
                         long long step_c, int batch, cublasComputeType_t, cublasGemmAlgo_t) = nullptr;
};
const Cublas* cublas();        // null where it is missing; loaded once, thread-safe
const char* cublas_missing();  // why, or null
// The calling thread's handle for `device`, which becomes current; bound to `stream` and to `workspace` of cublas_workspace bytes.
// DeviceError when it can't be made.
inline constexpr std::int64_t cublas_workspace = std::int64_t{32} << 20;  // what NVIDIA advises for compute capability 9.0
cublasHandle_t cublas_handle(int device, void* stream, void* workspace);
void check(cublasStatus_t status, const char* what);

#define MIEN_CUDNN_FUNCTIONS(X)                                                                                                                            \
  X(cudnnGetVersion)                                                                                                                                       \
  X(cudnnGetErrorString) X(cudnnCreate) X(cudnnSetStream) X(cudnnCreateTensorDescriptor) X(cudnnDestroyTensorDescriptor) X(cudnnSetTensor4dDescriptorEx)   \
      X(cudnnCreateFilterDescriptor) X(cudnnDestroyFilterDescriptor) X(cudnnSetFilter4dDescriptor) X(cudnnCreateConvolutionDescriptor)                     \
          X(cudnnDestroyConvolutionDescriptor) X(cudnnSetConvolution2dDescriptor) X(cudnnSetConvolutionMathType) X(cudnnGetConvolutionForwardAlgorithm_v7) \
              X(cudnnGetConvolutionBackwardDataAlgorithm_v7) X(cudnnGetConvolutionBackwardFilterAlgorithm_v7) X(cudnnGetConvolutionForwardWorkspaceSize)   \
                  X(cudnnGetConvolutionBackwardDataWorkspaceSize) X(cudnnGetConvolutionBackwardFilterWorkspaceSize) X(cudnnConvolutionForward)             \
                      X(cudnnConvolutionBackwardData) X(cudnnConvolutionBackwardFilter)
struct Cudnn {
#define MIEN_MEMBER(name) decltype(&::name) name = nullptr;
  MIEN_CUDNN_FUNCTIONS(MIEN_MEMBER)
#undef MIEN_MEMBER
};
const Cudnn* cudnn();
const char* cudnn_missing();
// Bound to `stream`, as above. Null where cuDNN lacks a part, or does not fit the GPU or its driver.
cudnnHandle_t cudnn_handle(int device, void* stream);
void check(cudnnStatus_t status, const char* what);

// --- matmul_library.cpp: y = a b, or y += a b with `add`, of matrices of one dtype in any batch --------------------------------------------------
struct Matrix {
  void* data = nullptr;
  std::int64_t rows = 0, columns = 0, row_step = 0, column_step = 0, batch_step = 0;  // steps in elements
};
struct Gemm {
  DType dtype = DType::f32;
  Matrix a, b, y;
  std::int64_t batch = 1;
  bool add = false;
};
const char* gemm_decline(const Gemm& g);
void gemm(const KernelArgs& args, int device, const Gemm& g, const char* what);  // args.workspace: cublas_workspace bytes

// y = bias along dimension 1 of y, for any rank from 2 on.
void fill_with_bias(const KernelArgs& args, const View& y, const View& bias);
// y += bias along dimension 1 (conv_bias.cu).
void add_bias(const KernelArgs& args, const View& y, const View& bias);

}  // namespace mien::cuda_library
