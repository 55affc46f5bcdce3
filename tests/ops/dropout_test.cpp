// The mask of dropout: its words are random::draw's, its kept numbers are scaled, and who may lie where.

#include <cmath>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/exec/inline.hpp>
#include <hybridmoe/ops/dropout.hpp>
#include <support/numbers.hpp>

namespace hm = hybridmoe;
namespace ops = hm::ops;
using hm::Index;

namespace {

/// The factor of one element, word by word: 16 bits of the block that covers eight columns.
float factor(const ops::DropoutMask& mask, Index row, Index column) {
  const Index within = column % ops::mask_columns, lane = within % 16, half = within / 16;
  const auto element = static_cast<std::uint64_t>(row) << 32 | static_cast<std::uint64_t>(column / 128 * 16 + lane);
  const std::uint32_t word = hm::random::draw(mask.key, mask.stream, element).word[half / 2];
  const float number = static_cast<float>(half % 2 == 0 ? word & 0xffff : word >> 16) / 65536.0f;
  return number < mask.rate ? 0.0f : 1.0f / (1.0f - mask.rate);
}

}  // namespace

TEST_CASE("a mask is a function of key, stream, row and column: random::draw's words") {
  constexpr Index width = 300, rows = 37;
  const std::vector<float> branch(hm::to_size(rows * width), 1.0f);
  std::vector<float> y(branch.size(), NAN);
  const ops::DropoutMask mask{hm::random::key_of(0x123456789abcdef), 0xfedcba987654321, 0.25f};
  ops::add_dropped<width>(hm::exec::Inline{}, rows, static_cast<const float*>(nullptr), branch.data(), y.data(), mask);
  Index kept = 0;
  for (Index row = 0; row < rows; ++row)
    for (Index column = 0; column < width; ++column) {
      REQUIRE(y[hm::to_size(row * width + column)] == factor(mask, row, column));
      kept += y[hm::to_size(row * width + column)] > 0;
    }
  const double share = static_cast<double>(kept) / (rows * width);
  CHECK(std::fabs(share - 0.75) < 4 * std::sqrt(0.75 * 0.25 / (rows * width)));
}

TEST_CASE("residual and branch may be the output; rate 0 keeps everything") {
  constexpr Index width = 130, rows = 18;
  const auto residual = test::cast<float>(test::numbers(rows * width, 1));
  const auto branch = test::cast<float>(test::numbers(rows * width, 2));
  for (const float rate : {0.0f, 0.5f}) {
    const ops::DropoutMask mask{hm::random::key_of(9), 4, rate};
    std::vector<float> expected(branch.size());
    for (Index row = 0; row < rows; ++row)
      for (Index column = 0; column < width; ++column) {
        const auto i = hm::to_size(row * width + column);
        expected[i] = residual[i] + (rate > 0 ? factor(mask, row, column) : 1.0f) * branch[i];
      }
    std::vector<float> onto_residual = residual, onto_branch = branch;
    ops::add_dropped<width>(hm::exec::Inline{}, rows, onto_residual.data(), branch.data(), onto_residual.data(), mask);
    ops::add_dropped<width>(hm::exec::Inline{}, rows, residual.data(), onto_branch.data(), onto_branch.data(), mask);
    CHECK(onto_residual == onto_branch);
    for (std::size_t i = 0; i < expected.size(); ++i) REQUIRE(std::fabs(onto_residual[i] - expected[i]) < 1e-6f);
  }
}
