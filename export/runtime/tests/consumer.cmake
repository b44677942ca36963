# Installs the runtime, builds examples/cpp against the installed package and runs it.
function(run)
    execute_process(COMMAND ${ARGN} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

file(REMOVE_RECURSE ${WORK})
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE} -B ${WORK}/build -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER}
    -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/classify ${BUNDLE})
run(${WORK}/prefix/bin/mammoth-run ${BUNDLE} ${BUNDLE}/golden/input.npy)
if(MODULE)
    run(${WORK}/build/classify ${BUNDLE} torchscript)
    run(${WORK}/prefix/bin/mammoth-run ${BUNDLE} ${BUNDLE}/golden/input.npy --backend torchscript)
endif()

# The C++ program in the README of the bundle, built against the same package.
file(READ ${BUNDLE}/README.md readme)
string(REGEX MATCH "```cpp\n(.*)}\n```" block "${readme}")
file(WRITE ${WORK}/readme/main.cpp "${CMAKE_MATCH_1}}\n")
file(WRITE ${WORK}/readme/CMakeLists.txt "cmake_minimum_required(VERSION 3.24)
project(readme LANGUAGES CXX)
find_package(mammoth_runtime 0.2 REQUIRED)
add_executable(readme main.cpp)
target_link_libraries(readme PRIVATE mammoth::runtime)
")
run(${CMAKE_COMMAND} -S ${WORK}/readme -B ${WORK}/readme/build -G ${GENERATOR}
    -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_PREFIX_PATH=${WORK}/prefix -DCMAKE_BUILD_TYPE=Release)
run(${CMAKE_COMMAND} --build ${WORK}/readme/build)
execute_process(COMMAND ${WORK}/readme/build/readme WORKING_DIRECTORY ${BUNDLE}
                OUTPUT_VARIABLE answer COMMAND_ERROR_IS_FATAL ANY)
if(NOT answer MATCHES "^class [0-9]+, score -?[0-9]")
    message(FATAL_ERROR "the program in the README printed: ${answer}")
endif()
