# libmammoth_torch.so: the backends aoti and torchscript, which the runtime loads on demand.
#
# Links libtorch from the wheel directly. With a CUDA wheel, find_package(Torch) fails if there is no
# CUDA toolkit, which is not needed here.
if(MAMMOTH_TORCH AND EXISTS "${MAMMOTH_TORCH_ROOT}/include/torch/script.h")
    add_library(mammoth_torch MODULE
        src/torch/aoti.cpp src/torch/module.cpp src/torch/tensors.cpp src/torch/torchscript.cpp)
    set_target_properties(mammoth_torch PROPERTIES
        LIBRARY_OUTPUT_DIRECTORY ${CMAKE_LIBRARY_OUTPUT_DIRECTORY}/mammoth
        BUILD_RPATH "${MAMMOTH_TORCH_ROOT}/lib"
        INSTALL_RPATH "${MAMMOTH_TORCH_ROOT}/lib")
    target_include_directories(mammoth_torch SYSTEM PRIVATE
        ${MAMMOTH_TORCH_ROOT}/include ${MAMMOTH_TORCH_ROOT}/include/torch/csrc/api/include)
    # libtorch.so only depends on the other libraries. Without the option the linker would drop it,
    # and with it the CUDA libraries of a CUDA wheel.
    target_link_libraries(mammoth_torch PRIVATE mammoth::contract
        -Wl,--no-as-needed ${MAMMOTH_TORCH_ROOT}/lib/libtorch.so -Wl,--as-needed
        ${MAMMOTH_TORCH_ROOT}/lib/libtorch_cpu.so ${MAMMOTH_TORCH_ROOT}/lib/libc10.so)
    # These libraries depend on CUDA libraries, which they find when they are loaded.
    target_link_options(mammoth_torch PRIVATE -Wl,--allow-shlib-undefined)
    message(STATUS "Backends aoti and torchscript: built with ${MAMMOTH_TORCH_ROOT}")
elseif(MAMMOTH_TORCH)
    message(STATUS "Backends aoti and torchscript: not built. Set -DMAMMOTH_PYTHON to a Python "
                   "with torch")
endif()
