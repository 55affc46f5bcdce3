// The laws of the controller behind the estimator, with budgets and targets that differ from row to row, on every space.

#include <control/support.hpp>
#include <hybridmoe/control/complexity.hpp>
#include <hybridmoe/control/controller.hpp>
#include <support/laws.hpp>

namespace check = hybridmoe::check;
namespace control = hybridmoe::control;
namespace stream = hybridmoe::stream;
// A ring of 9 + 2 complexities: it wraps several times, and calls reach over several blocks.
using Env = hybridmoe::Environment<12, 60, 16, 2>;

namespace {

constexpr control::ComplexityOptions estimator{
    .window = 8, .recent = 4, .projected = 5, .rank = 6, .hashes = 16, .classes = 8, .steps = 64};
constexpr control::ControllerOptions small{.hidden = 9, .block = 5};

using Read = check::ReadStreams<check::Drive<stream::Decisions, 15>, check::Drive<stream::Complexity, 1>>;
using Budgeted =
    check::Driven<check::WithSources<Read, 2, control::Complexity<estimator, test::FewClasses>, control::Controller<small>>,
                  check::Drive<stream::Budget, 1>, check::Drive<stream::Target, 1>>;

}  // namespace

TEST_CASE("the controller keeps the laws") {
  check::Options options;
  options.seed = 2;
  options.length = 50;
  options.gradient_length = 30;
  test::laws_everywhere<Budgeted, Env>(options);
}
TEST_CASE("taking tokens back leaves no trace in the controller") { test::rewinds_exactly<Budgeted, Env, double>(55); }
