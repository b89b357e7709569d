# kernels/cuda/: nvcc for the kernels, headers of cuBLAS and cuDNN (the libraries themselves are loaded when first used, never linked).
set(MIEN_HAVE_CUDA OFF)
if(NOT MIEN_CUDA STREQUAL "OFF")
  set(mien_no_cuda "")
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(MIEN_NVCC NAMES nvcc HINTS ENV CUDA_PATH PATH_SUFFIXES bin PATHS /usr/local/cuda/bin)
    if(MIEN_NVCC)
      set(CMAKE_CUDA_COMPILER ${MIEN_NVCC})
    endif()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER)
    set(mien_no_cuda "no CUDA compiler (nvcc) was found. Install the CUDA Toolkit 13.0, or name its nvcc with -DCMAKE_CUDA_COMPILER=")
  else()
    set(CMAKE_CUDA_ARCHITECTURES ${MIEN_CUDA_ARCHITECTURES})
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc speaks C++20
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit QUIET)
    find_path(MIEN_CUBLAS_INCLUDE cublasLt.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
    find_path(MIEN_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS} ENV CUDNN_PATH PATH_SUFFIXES include)
    if(NOT CUDAToolkit_FOUND OR NOT TARGET CUDA::cudart_static)
      set(mien_no_cuda "${CMAKE_CUDA_COMPILER} was found, but not the static CUDA run-time (libcudart_static.a) beside it")
    elseif(NOT MIEN_CUBLAS_INCLUDE)
      set(mien_no_cuda "the CUDA Toolkit was found, but not cuBLAS's header cublasLt.h. Install libcublas-dev")
    elseif(NOT MIEN_CUDNN_INCLUDE)
      set(mien_no_cuda "the CUDA Toolkit was found, but not cuDNN 9's header cudnn.h. Install cuDNN 9, or name its folder with -DMIEN_CUDNN_INCLUDE=")
    else()
      set(MIEN_HAVE_CUDA ON)
    endif()
  endif()
  if(mien_no_cuda AND MIEN_CUDA STREQUAL "ON")
    message(FATAL_ERROR "MIEN_CUDA=ON: ${mien_no_cuda}.")
  elseif(mien_no_cuda)
    message(STATUS "Without CUDA: ${mien_no_cuda}.")
  else()
    message(STATUS "CUDA ${CUDAToolkit_VERSION}, GPUs of ${MIEN_CUDA_ARCHITECTURES}")
  endif()
endif()

# Note [CUDA in one object]: kernels, their registration and the static CUDA run-time are joined into one object whose only global symbols are the two kernel
# tables and the backend. So libmien.a links wherever libmien.a without CUDA does: its consumers need no toolkit, and their own CUDA run-time stays apart.
function(mien_add_cuda_kernels target)
  if(NOT MIEN_HAVE_CUDA)
    return()
  endif()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cuda/*.cu ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cuda/*.cpp)
  add_library(mien_cuda_kernels OBJECT ${sources})
  target_include_directories(mien_cuda_kernels PRIVATE ${CMAKE_BINARY_DIR}/include)
  target_include_directories(mien_cuda_kernels SYSTEM PRIVATE ${CUDAToolkit_INCLUDE_DIRS} ${MIEN_CUBLAS_INCLUDE} ${MIEN_CUDNN_INCLUDE})
  target_compile_options(mien_cuda_kernels PRIVATE
    "$<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-gnu-unique>" "$<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wshadow;-Wconversion>"
    # -fno-gnu-unique: objcopy can't make such symbols local. -Wno-parentheses: nvcc itself writes them around pointers to members.
    # Compressed for size, the kernels of one architecture take 4 MB of a program instead of 24.
    "$<$<COMPILE_LANGUAGE:CUDA>:-O3;--compress-mode=size;--expt-relaxed-constexpr;-Werror;all-warnings;-Xcompiler=-fno-gnu-unique,-Wall,-Wextra,-Wno-parentheses,-ffp-contract=off>")
  set_target_properties(mien_cuda_kernels PROPERTIES POSITION_INDEPENDENT_CODE ON CUDA_STANDARD 20)
  set(joined ${CMAKE_BINARY_DIR}/kernels/mien_cuda.o)
  add_custom_command(OUTPUT ${joined}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/kernels
    COMMAND ${MIEN_GNU_LD} -r --force-group-allocation -o ${joined} $<TARGET_OBJECTS:mien_cuda_kernels> $<TARGET_FILE:CUDA::cudart_static>
    COMMAND ${CMAKE_OBJCOPY} --keep-global-symbol=mien_cuda --keep-global-symbol=mien_cuda_library --keep-global-symbol=mien_cuda_backend ${joined}
    DEPENDS mien_cuda_kernels $<TARGET_OBJECTS:mien_cuda_kernels>
    COMMAND_EXPAND_LISTS VERBATIM)
  set_source_files_properties(${joined} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  target_sources(${target} PRIVATE ${joined})
  target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS} rt)
endfunction()
