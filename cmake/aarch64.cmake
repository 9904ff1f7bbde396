# aarch64.cmake - builds for 64-bit Arm Linux on another machine: cmake -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64.cmake.
# The whole project needs jansson and xxhash of the target (Debian: dpkg --add-architecture arm64, then
# libjansson-dev:arm64 and libxxhash-dev:arm64; elsewhere set PKG_CONFIG_LIBDIR); tests/aarch64 needs only the compiler.
# Programs run by qemu where that is installed.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
if(NOT CMAKE_C_COMPILER)
    set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
endif()
find_program(QEMU NAMES qemu-aarch64-static qemu-aarch64)
if(QEMU)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${QEMU} -L /usr/aarch64-linux-gnu -cpu max)
endif()
if(NOT DEFINED ENV{PKG_CONFIG_LIBDIR})
    set(ENV{PKG_CONFIG_LIBDIR} /usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig)
endif()
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
