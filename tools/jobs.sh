# The jobs of tools/test, each a function job_NAME: sourced, not run. A job succeeds, fails, or calls `skip REASON`; what it
# writes with `note` stands beside its result.

export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1

# What the jobs install (as `need` takes it): the usual ones, and the others besides.
usual_packages=(g++=g++ make=make cmake=cmake ccache=ccache python3=python3 python3-venv ca-certificates xz-utils bzip2)
more_packages=(clang++=clang libomp-dev clang-tidy=clang-tidy doxygen=doxygen)

note() { printf '%s' "$*" > "$note"; }
skip() { note "$*"; exit 77; }

build_preset() {  # PRESET [TARGET...]
  local preset=$1; shift
  cmake --preset "$preset"
  cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"} -- -k
}

run_tests() {  # PRESET [ctest arguments...]
  local preset=$1; shift
  ctest --preset "$preset" -j "$jobs" "$@" | tee "$logs/$job.ctest"
  local summary
  summary=$(sed -n 's/^100% tests passed, 0 tests failed out of \([0-9]*\)$/\1/p' "$logs/$job.ctest")
  [ "${summary:-0}" -gt 0 ]  # a run of no test is not a passed one
  local skipped
  skipped=$(grep -c '\*\*\*Skipped' "$logs/$job.ctest") || true
  note "$summary programs$([ "$skipped" = 0 ] || echo ", $skipped of them SKIPPED")"
}

job_deps() {
  need g++=g++ make=make cmake=cmake ccache=ccache
  tools/deps
}

job_build() { build_preset kokkos-openmp; }
job_tests() { run_tests kokkos-openmp -LE kills; }
job_preset() {
  build_preset "$preset"
  if [ "$preset" = release ]; then note "programs built; this preset has no tests"; else run_tests "$preset" -LE kills; fi
}

# The parts that read files and the laws of every layer, on one thread.
job_sanitize() {
  build_preset asan-ubsan tests_io tests_laws
  run_tests asan-ubsan -L '^(io|laws)$' -LE kills
}
job_sanitize_all() {
  build_preset asan-ubsan
  run_tests asan-ubsan -LE kills
}

job_compile_fail() { tests/compile_fail/run; }
job_headers() { tests/headers/run; }
job_link() { tests/link/run; }
job_hygiene() { need python3=python3 && tests/hygiene/run && tools/snippets --check && tests/bench/run; }
job_format() { tools/format --check; }
job_consumers() { tests/consumers/run; }
job_examples() { tests/examples/run build/kokkos-openmp/examples; }
job_build_cost() { tests/build_cost/run; }

kills() {  # how many: the program saves, is killed while saving, and goes on from what it finds
  local programs=(build/kokkos-openmp/tests/*_kill_test)
  [ -x "${programs[0]}" ] || { echo "no tests/*/kill_test.cpp was built"; return 1; }
  local program
  for program in "${programs[@]}"; do HYBRIDMOE_KILLS=$1 "$program"; done
  note "$1 kills"
}
job_kills() { kills 20; }
job_kills_200() { kills 200; }

job_clang() {
  need clang++=clang libomp-dev
  tools/deps
  tools/deps --for clang
  build_preset clang
  run_tests clang -LE kills
}
job_clang_link() { need clang++=clang; CXX=clang++ tests/link/run; }
job_clang_headers() { need clang++=clang; CXX=clang++ tests/headers/run; }
job_clang_compile_fail() { need clang++=clang; CXX=clang++ tests/compile_fail/run; }

# Catch2 is compiled with exceptions and the tests are not: a failed check ends the program, which is a failure all the same.
job_engine() {
  build_preset engine
  run_tests engine -LE kills
}

job_tsan() {
  need clang++=clang libomp-dev
  tools/deps
  tools/deps --for tsan
  build_preset tsan tests_laws tests_kokkos
  local archer
  archer=$(find /usr/lib/llvm-*/lib -name libarcher.so | head -n 1)  # tells the sanitizer how OpenMP orders threads
  [ -n "$archer" ] || { echo "libarcher.so, without which OpenMP's own ordering looks like races, is not there"; return 1; }
  HYBRIDMOE_TEST_SPACES="OpenMP Team" OMP_TOOL_LIBRARIES=$archer TSAN_OPTIONS="ignore_noninstrumented_modules=1 halt_on_error=1" run_tests tsan -L '^(laws|kokkos)$'
}

job_tidy() {
  need clang-tidy=clang-tidy clang++=clang
  tests/headers/run --tidy
}

job_documents() {
  need doxygen=doxygen
  doxygen docs/Doxyfile
}

job_benchmarks() {  # that they compile; what they measure is a matter of a quiet machine
  tools/deps
  build_preset release all arm_full
}

job_quickstart() { tools/quickstart --seconds 10; }

job_cuda_build() {
  tools/deps
  tools/install_cuda_kokkos
  build_preset cuda quickstart_kokkos tests_cuda tests_exec
}
job_cuda_run() {
  nvidia-smi > /dev/null 2>&1 || skip "no GPU on this machine: built, not run"
  run_tests cuda -L '^(cuda|exec)$'
  (cd build/cuda && examples/quickstart_kokkos --seconds 10)
}
