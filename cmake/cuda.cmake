# CUDA, when there is an nvcc: csrc/cuda/<op>.cu to one fatbin per op (SASS for each architecture, PTX of the oldest and
# the newest), whose bytes become part of the library. Nothing of CUDA is linked: csrc/cuda/driver.cpp finds the driver
# at run time, so a library with kernels loads and runs on the CPU anywhere.
if(NOT MDMCORRECT_CUDA MATCHES "^(auto|on|off)$")
  message(FATAL_ERROR "MDMCORRECT_CUDA must be auto, on or off; got '${MDMCORRECT_CUDA}'")
endif()
set(nvcc "")
if(NOT MDMCORRECT_CUDA STREQUAL "off")
  find_program(MDMCORRECT_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
  if(MDMCORRECT_NVCC)
    execute_process(COMMAND ${MDMCORRECT_NVCC} --version OUTPUT_VARIABLE nvcc_says RESULT_VARIABLE nvcc_failed)
    if(NOT nvcc_failed AND nvcc_says MATCHES "V([0-9]+\\.[0-9]+\\.[0-9]+)")
      set(nvcc ${MDMCORRECT_NVCC})
      set(nvcc_version ${CMAKE_MATCH_1})
    endif()
  endif()
  if(NOT nvcc AND MDMCORRECT_CUDA STREQUAL "on")
    message(FATAL_ERROR "MDMCORRECT_CUDA=on, but no working nvcc was found; put nvcc on PATH or set CUDACXX")
  elseif(NOT nvcc)
    message(STATUS "mdmcorrect: no nvcc, so a CPU-only build")
  endif()
endif()

set(archs 80 86 89 90 100 120)
if(nvcc)
  include(cmake/architectures.cmake)
  if(MDMCORRECT_CUDA_ARCHS)
    mdm_read_architectures("${MDMCORRECT_CUDA_ARCHS}" archs)
  endif()
  mdm_known_architectures(${nvcc} ${nvcc_version} "${archs}" archs)
  if(NOT archs AND MDMCORRECT_CUDA STREQUAL "on")
    message(FATAL_ERROR "MDMCORRECT_CUDA=on, but nvcc ${nvcc_version} knows none of the architectures that are wanted")
  elseif(NOT archs)
    message(STATUS "mdmcorrect: no architecture to compile for, so a CPU-only build")
    set(nvcc "")
  endif()
endif()

set(MDM_CUDA_IMAGES "")        # assembler lines that hold the fatbins
set(MDM_CUDA_DECLARATIONS "")  # C++ declarations of their labels
set(MDM_CUDA_TABLE "")         # entries of the table of images
set(fatbins "")
if(nvcc)
  mdm_architecture_options("${archs}" code)
  # An operator's architectures at once, by as many threads as there are processors, or as the build may have.
  set(threads 0)
  if(DEFINED ENV{CMAKE_BUILD_PARALLEL_LEVEL})
    set(threads $ENV{CMAKE_BUILD_PARALLEL_LEVEL})
  endif()

  foreach(op ${MDMCORRECT_CUDA_OPS})
    set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${op}.fatbin)
    # Contraction off, as on the CPU (CMakeLists.txt).
    add_custom_command(
      OUTPUT ${fatbin}
      COMMAND ${nvcc} -fatbin -std=c++17 -O3 --threads ${threads} --fmad=false -lineinfo -Xptxas=-warn-spills ${code}
              -I${CMAKE_CURRENT_SOURCE_DIR}/csrc -MD -MF ${fatbin}.d -MT ${fatbin} -o ${fatbin}
              ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cuda/${op}.cu
      DEPENDS csrc/cuda/${op}.cu
      DEPFILE ${fatbin}.d
      COMMENT "Compiling ${op}.cu for ${archs}"
      VERBATIM)
    list(APPEND fatbins ${fatbin})
    string(APPEND MDM_CUDA_IMAGES
           "\"    .balign 16\\n    .local image_of_${op}\\nimage_of_${op}: .incbin \\\"${fatbin}\\\"\\n\"\n")
    string(APPEND MDM_CUDA_DECLARATIONS "extern const unsigned char image_of_${op}[];\n")
    string(APPEND MDM_CUDA_TABLE "{\"${op}\", image_of_${op}}, ")
  endforeach()
  string(JOIN " " arch_names ${archs})
  string(JOIN " " cuda_op_names ${MDMCORRECT_CUDA_OPS})
  target_compile_definitions(_C PRIVATE MDM_CUDA_VERSION="${nvcc_version}" MDM_CUDA_ARCHS="${arch_names}"
                                        MDM_CUDA_OPS="${cuda_op_names}")
endif()
configure_file(cmake/cuda_images.cpp.in cuda_images.cpp @ONLY)
set_source_files_properties(${CMAKE_CURRENT_BINARY_DIR}/cuda_images.cpp PROPERTIES OBJECT_DEPENDS "${fatbins}")
target_sources(_C PRIVATE ${CMAKE_CURRENT_BINARY_DIR}/cuda_images.cpp)
