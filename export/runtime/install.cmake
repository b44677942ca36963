include(CMakePackageConfigHelpers)

set(config_directory ${CMAKE_INSTALL_LIBDIR}/cmake/mammoth_runtime)
set(MAMMOTH_NEEDS_PNG ${PNG_FOUND})
configure_package_config_file(
    ${PROJECT_SOURCE_DIR}/cmake/mammoth_runtimeConfig.cmake.in mammoth_runtimeConfig.cmake
    INSTALL_DESTINATION ${config_directory} PATH_VARS CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(mammoth_runtimeConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(TARGETS mammoth_runtime mammoth_contract mammoth-run EXPORT mammoth_runtime)
install(DIRECTORY include/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT mammoth_runtime NAMESPACE mammoth:: FILE mammoth_runtimeTargets.cmake
        DESTINATION ${config_directory})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mammoth_runtimeConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/mammoth_runtimeConfigVersion.cmake
        DESTINATION ${config_directory})
if(TARGET mammoth_torch)
    install(TARGETS mammoth_torch DESTINATION ${CMAKE_INSTALL_LIBDIR}/mammoth)
endif()
