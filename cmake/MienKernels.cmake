# kernels/cpu/*.cpp once per instruction-set level, kernels/cpu/amx/*.cpp for level amx. See Note [One symbol a level] in kernels/cpu/table.h.
function(mien_add_kernel_levels target)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/*.cpp)
  set(levels base)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    set(levels base avx2 avx512 amx)
  endif()
  set(flags_base "")
  set(flags_avx2 -mavx2 -mfma -mf16c -mbmi2)
  set(flags_avx512 -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mf16c -mbmi2 -mprefer-vector-width=512)
  # g++ 12 takes the undefined operands inside its own intrinsics for mistakes (GCC bug 105593).
  set(flags_amx ${flags_avx512} -mamx-tile -mamx-bf16 -mavx512bf16 -Wno-maybe-uninitialized)
  set(optimisation -O3)
  if(MIEN_SANITIZE)
    set(optimisation -O1)  # unrolled kernels with checks are large: a quarter of the time to compile
  endif()
  # By name: with clang, CMAKE_LINKER is lld, which cannot dissolve section groups.
  find_program(MIEN_GNU_LD NAMES ${CMAKE_LIBRARY_ARCHITECTURE}-ld.bfd ld.bfd REQUIRED)  # the prefixed one first: of a cross compiler
  foreach(level IN LISTS levels)
    if(MIEN_KERNELS_FROM)
      target_sources(${target} PRIVATE ${MIEN_KERNELS_FROM}/kernels/mien_cpu_${level}.o)
      continue()
    endif()
    if(level STREQUAL amx)
      file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/amx/*.cpp)
    endif()
    add_library(mien_cpu_${level} OBJECT ${sources})
    target_link_libraries(mien_cpu_${level} PRIVATE mien_options)
    # objcopy can't make GNU's unique symbols local; the sanitizers keep those of constants.
    target_compile_options(mien_cpu_${level} PRIVATE ${optimisation} ${flags_${level}} $<$<CXX_COMPILER_ID:GNU>:-fno-gnu-unique>)
    target_compile_definitions(mien_cpu_${level} PRIVATE MIEN_LEVEL=${level} MIEN_TABLE=mien_cpu_${level} MIEN_LEVEL_IS_${level}=1)
    set(joined ${CMAKE_BINARY_DIR}/kernels/mien_cpu_${level}.o)
    add_custom_command(OUTPUT ${joined}
      COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/kernels
      COMMAND ${MIEN_GNU_LD} -r --force-group-allocation -o ${joined} $<TARGET_OBJECTS:mien_cpu_${level}>
      COMMAND ${CMAKE_OBJCOPY} --keep-global-symbol=mien_cpu_${level} ${joined}
      DEPENDS mien_cpu_${level} $<TARGET_OBJECTS:mien_cpu_${level}>
      COMMAND_EXPAND_LISTS VERBATIM)
    set_source_files_properties(${joined} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    target_sources(${target} PRIVATE ${joined})
  endforeach()
endfunction()
