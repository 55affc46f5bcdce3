// Result: what it holds after copies, moves and assignments of either kind, and that it destroys what it made.

#include <memory>
#include <string>
#include <utility>

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/core/result.hpp>

namespace hm = hybridmoe;

namespace {

using Text = hm::Result<std::shared_ptr<std::string>>;

hm::Error error() { return {.code = hm::Code::file_damaged, .what = "a file breaks", .where = std::string(40, 'w'), .got = 3}; }

}  // namespace

TEST_CASE("a result keeps its value or its error through copies, moves and assignments") {
  const auto text = std::make_shared<std::string>("kept");
  {
    const Text good(text), bad(error());
    for (const Text* from : {&good, &bad}) {
      for (const Text* to : {&good, &bad}) {
        Text copy = *to;
        copy = *from;
        REQUIRE(bool(copy) == (from == &good));
        Text moved = std::move(copy);
        REQUIRE(bool(moved) == (from == &good));
        if (moved)
          CHECK(**moved == "kept");
        else
          CHECK(moved.error().where == std::string(40, 'w'));
        const Text& self = moved;
        moved = self;
        CHECK(bool(moved) == (from == &good));
      }
    }
    CHECK(text.use_count() == 2);
  }
  CHECK(text.use_count() == 1);
}

TEST_CASE("a value that can only move, and the move out of a result") {
  hm::Result<std::unique_ptr<int>> result(std::make_unique<int>(7));
  CHECK(*result.value() == 7);
  const std::unique_ptr<int> out = std::move(result).value();
  CHECK(*out == 7);
  static_assert(!std::is_copy_constructible_v<hm::Result<std::unique_ptr<int>>>);
}

TEST_CASE("messages of errors name what, where, got and expected") {
  CHECK(hm::Error{.what = "too small"}.message() == "too small");
  CHECK(hm::Error{.what = "too small", .where = "arena", .got = 3, .expected = 4}.message() ==
        "arena: too small (got 3, expected 4)");
  CHECK(hm::Error{.what = "odd", .expected = -4, .detail = "line"}.message() == "odd (expected -4)\nline");
  CHECK(hm::Error{.what = "odd", .got = 0}.message() == "odd (got 0)");
}
