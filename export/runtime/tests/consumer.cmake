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
