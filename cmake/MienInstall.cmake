# Install: headers, library, package files, weights, the program.
include(CMakePackageConfigHelpers)
foreach(folder IN LISTS MIEN_FOLDERS)
  install(DIRECTORY ${folder}/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mien/${folder}
    FILES_MATCHING PATTERN "*.h" PATTERN "*_impl.h" EXCLUDE PATTERN "cpu" EXCLUDE PATTERN "ref" EXCLUDE PATTERN "cuda" EXCLUDE)
endforeach()
install(FILES mien.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/mien)
install(TARGETS mien EXPORT mien-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(EXPORT mien-targets NAMESPACE mien:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mien)
configure_package_config_file(cmake/mien-config.cmake.in ${CMAKE_BINARY_DIR}/mien-config.cmake INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mien)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/mien-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/mien-config.cmake ${CMAKE_BINARY_DIR}/mien-config-version.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/mien)
install(DIRECTORY weights/ DESTINATION ${CMAKE_INSTALL_DATADIR}/mien/weights)
install(FILES LICENSE THIRD_PARTY DESTINATION ${CMAKE_INSTALL_DOCDIR})
# The program looks for its weights in ../share/mien/weights, in the build folder as after install.
file(GLOB weight_files CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/weights/*)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/share/mien/weights)
foreach(file IN LISTS weight_files)
  get_filename_component(leaf ${file} NAME)
  configure_file(${file} ${CMAKE_BINARY_DIR}/share/mien/weights/${leaf} COPYONLY)
endforeach()
