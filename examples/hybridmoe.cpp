// A HybridMoE of one's own: defined, trained under drawn budgets, asked for less and for more, and taken back.
#include <hybridmoe/hybridmoe.hpp>
#include <hybridmoe/zoo/hybridmoe.hpp>

namespace hm = hybridmoe;
//! [model]
constexpr hm::zoo::HybridSizes sizes = [] {
  hm::zoo::HybridSizes s = hm::zoo::hybrid_pico;
  s.context = 256;
  s.rewind = 8;
  return s;
}();
struct Mine : hm::zoo::HybridModel<sizes, hm::Pattern<"GLMA">> {};
static_assert(hm::Account<Mine>::active_parameters().target < 600'000);
constexpr double half = hm::Account<Mine>::budget_for(0.7, 256);  // a token costs at most 0.7 of the worst case
//! [model]

int fail(const hm::Error& error) { return std::printf("%s\n", error.message().c_str()), 1; }

int main(int count, char** words) {
  const auto text = hm::train::Text::read(count > 1 ? words[1] : "text.txt");
  if (!text) return fail(text.error());
  //! [train]
  hm::Model<Mine, hm::f32> model{hm::Seed{1}};
  hm::train::Options options{.batch = 8, .length = 128, .schedule = {.peak = 3e-3, .warmup = 10}};
  options.budgets.sampled = true;  // every sequence stands beside the batch again, at a lower budget
  auto trainer = hm::train::Trainer<decltype(model)>::create(model, *text, options);
  if (!trainer) return fail(trainer.error());
  const auto report = hm::train::fit(*trainer, {.seconds = count > 2 ? std::atof(words[2]) : 60.0, .progress = false});
  if (!report) return fail(report.error());
  for (const double budget : {0.0, half, 1.0}) {
    const auto seen = trainer->measure(8, {.budget = budget});
    std::printf("budget %.2f: %.3f nats per byte, %.2f experts in layer 1\n", budget, seen.loss,
                seen.used[hm::Used::fields + hm::Used::experts]);
  }
  //! [train]
  std::printf("%s", hm::describe<Mine>().c_str());
  const auto packed = hm::pack(model);
  //! [serve]
  auto session = hm::generate::Session<std::remove_const_t<decltype(packed)>>::create(packed, {.sequences = 2});
  if (!session) return fail(session.error());
  const std::span prompt(text->tokens(), 100);
  if (const auto told = session->spend(0, {.budget = half}); !told) return fail(told.error());
  if (const auto fed = session->feed(0, prompt); !fed) return fail(fed.error());
  session->fork(0, 1);  // a copy that goes its own way
  if (const auto fed = session->feed(1, prompt.subspan(0, 6)); !fed) return fail(fed.error());
  if (const auto back = session->rewind(1, 6); !back) return fail(back.error());  // as if it had never been fed
  for (const hm::Index s : {0, 1})
    if (const auto fed = session->feed(s, prompt.subspan(0, 1)); !fed) return fail(fed.error());
  std::printf("after taking 6 tokens back: %s\n",
              std::equal(session->logits(0).begin(), session->logits(0).end(), session->logits(1).begin()) ? "the same bits"
                                                                                                           : "other bits");
  //! [serve]
}
