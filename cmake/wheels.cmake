# Finds the C++ libraries in the wheels of onnxruntime and torch.
#
# Sets MAMMOTH_PYTHON, MAMMOTH_ONNXRUNTIME (a default at run time, not needed for building) and
# MAMMOTH_TORCH_ROOT (a directory with include/ and lib/, as in the wheel or in a libtorch archive).

find_program(MAMMOTH_PYTHON python3 HINTS "${PROJECT_SOURCE_DIR}/.venv/bin"
             DOC "Python that has the packages onnxruntime and torch")
if(MAMMOTH_PYTHON)
    get_filename_component(MAMMOTH_PYTHON "${MAMMOTH_PYTHON}" ABSOLUTE BASE_DIR "${CMAKE_BINARY_DIR}")
endif()

# Sets `result` to the directory of a package, without importing it, or to an empty string.
function(mammoth_package_directory package result)
    set(code "import importlib.util as u; s = u.find_spec('${package}'); print(s.submodule_search_locations[0] if s else '')")
    set(directory "")
    if(MAMMOTH_PYTHON)
        # Not in the checkout, because Python also searches the working directory for packages.
        execute_process(COMMAND ${MAMMOTH_PYTHON} -c "${code}" OUTPUT_VARIABLE directory
                        WORKING_DIRECTORY ${CMAKE_BINARY_DIR}
                        OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    endif()
    set(${result} "${directory}" PARENT_SCOPE)
endfunction()

if(NOT DEFINED MAMMOTH_ONNXRUNTIME)
    mammoth_package_directory(onnxruntime directory)
    file(GLOB library "${directory}/capi/libonnxruntime.so.*")
    set(MAMMOTH_ONNXRUNTIME "${library}" CACHE FILEPATH "ONNX Runtime to use if the system has none")
endif()
if(NOT DEFINED MAMMOTH_TORCH_ROOT)
    mammoth_package_directory(torch directory)
    set(MAMMOTH_TORCH_ROOT "${directory}" CACHE PATH "Directory with include/ and lib/ of libtorch")
endif()
