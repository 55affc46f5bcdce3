// The laws notice every flaw that a layer can be given, and say which law it breaks.

#include <catch2/catch_test_macros.hpp>
#include <hybridmoe/check/laws.hpp>
#include <support/allocations.hpp>

#include "check/flawed.hpp"

namespace check = hybridmoe::check;
using Env = hybridmoe::Environment<6, 40, 8>;
using test::Flaw;

namespace {

template <class T>
check::Report laws_with(Flaw flaw) {
  test::flaw = flaw;
  check::Options options;
  options.allocations = test::allocations;
  const check::Report report = check::laws<test::Smoothing, Env, T>(hybridmoe::exec::Inline{}, options);
  test::flaw = Flaw::none;
  return report;
}

}  // namespace

TEST_CASE("a sound layer keeps the laws, and its report is reproducible") {
  const check::Report report = laws_with<double>(Flaw::none);
  INFO(report.text());
  CHECK(report);
  CHECK(report.comparisons > 1000);
  CHECK(report.skipped == 0);
  CHECK(laws_with<double>(Flaw::none).bits == report.bits);
  const check::Report single = laws_with<float>(Flaw::none);
  INFO(single.text());
  CHECK(single);
  CHECK(single.bits != report.bits);
}

TEST_CASE("every flaw breaks the law it should") {
  struct Case {
    Flaw flaw;
    const char* words;
  };
  for (const Case& c : {
           Case{Flaw::looks_ahead, "law 2: a changed token changes outputs before it"},
           {Flaw::mixes_sequences, "law 2: a changed token changes outputs of another sequence"},
           {Flaw::ignores_input, "law 2: a changed token changes no output at all"},
           {Flaw::chunk_in_bits, "law 1: row by row"},
           {Flaw::batch_in_bits, "law 1: in a training call of several sequences"},
           {Flaw::forgets_state, "law 1: in the longest chunks"},
           {Flaw::stale_state, "law 4: forward with states leaves row"},
           {Flaw::foreign_state, "changes the state of a sequence that is not in the batch"},
           {Flaw::assigns_gradient, "law 3: the gradient of bias"},
           {Flaw::assigns_dx, "law 3: dx"},
           {Flaw::percent_of_gradient, "law 3: the gradient of gain"},
           {Flaw::percent_of_dx, "law 3: dx"},
           {Flaw::no_bias_gradient, "law 3: the gradient of bias"},
           {Flaw::rough, "forward is not smooth there"},
           {Flaw::leaves_output, "column 5 of y unwritten"},
           {Flaw::writes_behind_output, "law 4: forward writes behind y"},
           {Flaw::writes_behind_tape, "law 4: forward writes behind its tape"},
           {Flaw::writes_to_input, "law 4: forward writes to x"},
           {Flaw::writes_to_parameters, "law 4: forward writes to the parameters"},
           {Flaw::reads_scratch, "of y unwritten, or computes it from memory that nobody wrote"},
           {Flaw::reads_tape_in_backward, "law 4: backward computes gradients from memory that nobody wrote"},
           {Flaw::behind_workspace, "law 5: a training call takes"},
           {Flaw::too_much_workspace, "law 5: a training call takes"},
           {Flaw::workspace_shrinks, "law 5: a larger batch declares less workspace"},
           {Flaw::visit_forgets, "law 5: visit leaves out 6 elements after gain"},
           {Flaw::visit_repeats, "law 5: visit lists some elements twice"},
           {Flaw::visit_renames, "law 5: visit lists two tensors named gain"},
           {Flaw::active_too_few, "law 5: a token meets 48 parameters, and active_parameters() declares 42"},
           {Flaw::active_too_many, "least <= target <= most <= all parameters"},
           {Flaw::flops_too_few, "law 5: flops_per_token declares 36"},
           {Flaw::flops_without_backward, "law 5: flops_per_token must take training"},
           {Flaw::state_too_small, "declare 7 elements, and State has 6"},
           {Flaw::allocates, "law 5: a forward with states allocates memory"},
           {Flaw::tells_poison, "law 4: outputs or gradients depend on what scratch, tape or y held"},
           {Flaw::writes_to_batch, "law 4: forward writes to the batch's arrays"},
           {Flaw::writes_to_output_gradient, "law 4: backward writes to dy"},
           {Flaw::writes_behind_input_gradient, "law 4: backward writes behind dx"},
           {Flaw::writes_behind_gradient, "law 4: backward writes behind the gradient"},
           {Flaw::tape_shrinks, "law 5: a larger batch plans a smaller tape"},
           {Flaw::flops_shrink, "law 5: flops_per_token shrinks with the context"},
       }) {
    const check::Report report = laws_with<double>(c.flaw);
    INFO("flaw number " << static_cast<int>(c.flaw) << ": " << report.text());
    CHECK_FALSE(report);
    CHECK(report.mentions(c.words));
  }
}

TEST_CASE("one flaw is one matter: laws that it does not touch are not reported") {
  const check::Report percent = laws_with<double>(Flaw::percent_of_gradient);
  INFO(percent.text());
  CHECK_FALSE(percent.mentions("law 1"));
  CHECK_FALSE(percent.mentions("law 2"));
  CHECK_FALSE(percent.mentions("the gradient of bias"));
  const check::Report bits = laws_with<double>(Flaw::batch_in_bits);
  INFO(bits.text());
  CHECK_FALSE(bits.mentions("law 4"));
  CHECK_FALSE(bits.mentions("law 5"));
}

TEST_CASE("points where a choice flips are left out of law 3, and counted") {
  const check::Report report = laws_with<double>(Flaw::none_but_steps);
  INFO(report.text());
  CHECK(report);
  CHECK(report.skipped > 0);
}

TEST_CASE("a place that computes something else is noticed where it is held against another") {
  CHECK(laws_with<double>(Flaw::float_differs));
  const check::Report report = laws_with<float>(Flaw::float_differs);
  INFO(report.text());
  CHECK(report.mentions("law 4: y differs from double by"));
  CHECK_FALSE(report.mentions("law 1"));
  CHECK_FALSE(report.mentions("law 3"));
}

TEST_CASE("the laws in float look at the derivative in double") {
  const check::Report report = laws_with<float>(Flaw::percent_of_gradient);
  INFO(report.text());
  CHECK(report.mentions("law 3: the gradient of gain"));
}
