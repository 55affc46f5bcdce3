# `cmake --install`, and the package that find_package(hybridmoe) finds.
if(HYBRIDMOE_IS_TOP_LEVEL)
  set(HYBRIDMOE_INSTALL_DEFAULT ON)
else()
  set(HYBRIDMOE_INSTALL_DEFAULT OFF)
endif()
option(HYBRIDMOE_INSTALL "Create the install target" ${HYBRIDMOE_INSTALL_DEFAULT})
if(NOT HYBRIDMOE_INSTALL)
  return()
endif()

set(package ${CMAKE_INSTALL_DATADIR}/cmake/hybridmoe)
install(DIRECTORY include/hybridmoe DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS hybridmoe_inline hybridmoe_io hybridmoe_kokkos hybridmoe_cuda EXPORT hybridmoe)
install(EXPORT hybridmoe NAMESPACE hybridmoe:: FILE hybridmoeTargets.cmake DESTINATION ${package})
configure_package_config_file(cmake/hybridmoeConfig.cmake.in ${PROJECT_BINARY_DIR}/hybridmoeConfig.cmake
                              INSTALL_DESTINATION ${package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/hybridmoeConfigVersion.cmake COMPATIBILITY SameMinorVersion
                                 ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/hybridmoeConfig.cmake ${PROJECT_BINARY_DIR}/hybridmoeConfigVersion.cmake
        DESTINATION ${package})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
