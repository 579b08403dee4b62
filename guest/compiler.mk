# Which compiler makes static programs for ARCH: sets COMPILER, and LEAN where it is a gcc with musl.
#
# The first of these compilers that is there: musl-gcc (Debian's musl-tools; the host's architecture only), a cross
# compiler with musl as `./musl-for ARCH DIR` fetches it (MUSL=DIR, build/musl-ARCH unless said), zig (PyPI's ziglang, any
# architecture), a cross compiler or the host's own with -static (glibc: seven times as large).

HOST := $(shell uname -m)
GUEST := $(dir $(abspath $(lastword $(MAKEFILE_LIST))))
MUSL ?= $(GUEST)build/musl-$(ARCH)

ifndef COMPILER
  ifeq ($(ARCH)$(shell command -v musl-gcc >/dev/null && echo +musl),$(HOST)+musl)
    COMPILER := musl-gcc
    LEAN := yes
  else ifneq ($(and $(wildcard $(MUSL)/specs),$(shell command -v $(ARCH)-linux-gnu-gcc)),)
    COMPILER := $(ARCH)-linux-gnu-gcc -specs $(MUSL)/specs
    LEAN := yes
  else ifeq ($(shell $(PYTHON) -c 'import ziglang' 2>/dev/null && echo zig),zig)
    COMPILER := $(PYTHON) -m ziglang cc -target $(ARCH)-linux-musl
  else ifneq ($(shell command -v $(ARCH)-linux-gnu-gcc),)
    COMPILER := $(ARCH)-linux-gnu-gcc
  else ifeq ($(ARCH)$(shell command -v cc >/dev/null && echo +cc),$(HOST)+cc)
    COMPILER := cc
  else
    $(error no C compiler for $(ARCH): apt-get install musl-tools, or pip install ziglang)
  endif
endif
