# The front door. CMake does the work; `make help` lists the targets.
PREFIX ?= /usr/local
JOBS := $(shell nproc 2>/dev/null || echo 2)
CONFIGURE := cmake -S . -Wno-dev --log-level=WARNING

.PHONY: all help packages check demo bench install clean
# Configuring again is quick, and picks up what was missing the last time.
all:
	@$(CONFIGURE) -B build -DCMAKE_BUILD_TYPE=Release
	@cmake --build build --parallel $(JOBS)

help:
	@echo "make                  build the library and the command in build/"
	@echo "make check            install what is missing, build, run all tests, again under ASan and UBSan"
	@echo "make demo             train, measure and run a small model (scripts/demo.sh)"
	@echo "make bench            time the kernels and whole operations"
	@echo "make install PREFIX=  install (default $(PREFIX)); DESTDIR= stages for a package"
	@echo "make clean            remove build/ and build-asan/"

packages:
	@scripts/install-packages.sh test

# The second run is the one that finds memory errors, so it comes last and its summary is the verdict.
check: packages
	@scripts/install-python.sh || { [ -z "$$CI" ] && echo "The tests that need it will be skipped." >&2; }
	@$(MAKE) --no-print-directory all
	@ctest --test-dir build --output-on-failure --no-tests=error -j $(JOBS)
	@$(CONFIGURE) -B build-asan -DQSBITS_SANITIZE=ON
	@cmake --build build-asan --parallel $(JOBS)
	@ctest --test-dir build-asan --output-on-failure --no-tests=error -j $(JOBS)

demo:
	@scripts/install-packages.sh build
	@$(MAKE) --no-print-directory all
	@scripts/demo.sh

bench: all
	@build/tests/check_kernels --bench
	@build/qsbits bench

install: all
	@DESTDIR="$(DESTDIR)" cmake --install build --prefix "$(PREFIX)"

clean:
	@cmake -E rm -rf build build-asan
