#pragma once
// Runs one of this program's own hidden tests with a number of threads that only a new process can choose.

#include <cstdio>
#include <string>
#include <vector>

#include <unistd.h>
#include <catch2/catch_test_macros.hpp>

namespace test {

struct Printed {
  int threads = 0;              ///< from a line "threads N"
  std::vector<double> numbers;  ///< from lines "number N" in %a
};

inline Printed run_with_threads(int threads, const std::string& tag) {
  char self[4096] = {};
  REQUIRE(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
  const std::string command = "OMP_NUM_THREADS=" + std::to_string(threads) + " OMP_PROC_BIND=false '" + self + "' '" + tag + "'";
  FILE* const output = popen(command.c_str(), "r");
  REQUIRE(output != nullptr);
  Printed result;
  char line[256];
  while (std::fgets(line, sizeof line, output) != nullptr) {
    double number = 0;
    if (std::sscanf(line, "number %la", &number) == 1) result.numbers.push_back(number);
    std::sscanf(line, "threads %d", &result.threads);
  }
  REQUIRE(pclose(output) == 0);
  return result;
}

inline void print_numbers(int threads, const std::vector<double>& numbers) {
  std::printf("threads %d\n", threads);
  for (const double number : numbers) std::printf("number %a\n", number);
}

}  // namespace test
