# What `cmake --install` and `make install` put below the prefix. Nothing in it names the prefix, so that the whole folder
# may be moved. DESTDIR is CMake's.
include(CMakePackageConfigHelpers)

# ---- libraries, headers, command ---------------------------------------------------------------------------------

# Two export sets: who links the shared library needs none of the packages that the static one brings along.
install(TARGETS qsbits EXPORT shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS qsbits_static EXPORT static ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS qsbits_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/qsbits DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

# ---- how other projects find them --------------------------------------------------------------------------------

set(QSBITS_PACKAGE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/qsbits)
foreach(set shared static)
    install(EXPORT ${set} NAMESPACE qsbits:: FILE qsbits-${set}.cmake DESTINATION ${QSBITS_PACKAGE_DIR})
endforeach()
configure_package_config_file(cmake/qsbits-config.cmake.in qsbits-config.cmake INSTALL_DESTINATION ${QSBITS_PACKAGE_DIR})
# Before 1.0 a new minor version may change the ABI.
write_basic_package_version_file(qsbits-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/qsbits-config.cmake ${PROJECT_BINARY_DIR}/qsbits-config-version.cmake
        DESTINATION ${QSBITS_PACKAGE_DIR})

file(RELATIVE_PATH QSBITS_UP /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" QSBITS_UP "${QSBITS_UP}")
configure_file(cmake/qsbits.pc.in qsbits.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/qsbits.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# ---- man page and completions, which the command writes ----------------------------------------------------------

set(written)
function(qsbits_written name installed)
    cmake_path(GET installed PARENT_PATH folder)
    cmake_path(GET installed FILENAME file)
    add_custom_command(OUTPUT share/${name} DEPENDS qsbits_command VERBATIM
                       COMMAND ${CMAKE_COMMAND} -E make_directory share COMMAND qsbits_command ${ARGN} > share/${name})
    install(FILES ${PROJECT_BINARY_DIR}/share/${name} DESTINATION ${folder} RENAME ${file})
    set(written ${written} share/${name} PARENT_SCOPE)
endfunction()
qsbits_written(qsbits.1 ${CMAKE_INSTALL_MANDIR}/man1/qsbits.1 manual)
qsbits_written(qsbits.bash ${CMAKE_INSTALL_DATADIR}/bash-completion/completions/qsbits completion bash)
qsbits_written(qsbits.zsh ${CMAKE_INSTALL_DATADIR}/zsh/site-functions/_qsbits completion zsh)
qsbits_written(qsbits.fish ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d/qsbits.fish completion fish)
add_custom_target(qsbits_share ALL DEPENDS ${written})

# ---- documents, in the folders their links expect ----------------------------------------------------------------

install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md")
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.c")
