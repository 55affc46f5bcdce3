// A simulation that already uses Kokkos: (1) a batched forward on its own instance and views, and (2) one small network per agent
// inside the simulation's own kernel, a team of threads for each.
#include <cstdio>

#include <hybridmoe/kokkos.hpp>

namespace hm = hybridmoe;
using hm::Index;
using Space = Kokkos::DefaultExecutionSpace;

constexpr hm::Heads heads{.query = 2, .kv = 1, .size = 16};
struct Policy
    : hm::LanguageModel<hm::LanguageSizes{.vocab = 16, .width = 32, .context = 32, .chunk = 8}, hm::Pattern<"G", hm::layers<2>>,
                        hm::Slot<'G', hm::Block<hm::attention::Full<heads>, hm::channel::SwiGlu<64>>>> {};
constexpr Index agents = 12, seen = 8;  // every agent has observed eight symbols
using Scalars = Kokkos::View<float* [16], Kokkos::LayoutRight, Space>;

//! [team]
/// One agent: the whole forward runs inside this kernel, its items shared by the agent's team.
struct Think {
  using Member = Kokkos::TeamPolicy<Space>::member_type;
  const float* parameters;
  Kokkos::View<std::int32_t* [seen], Kokkos::LayoutRight, Space> observed;
  Kokkos::View<std::byte**, Kokkos::LayoutRight, Space> state, scratch;
  Kokkos::View<Index*, Space> batch;  // begin 0, seen; start; slot; row_sequence; row_position; wanted row
  Scalars logits;

  KOKKOS_FUNCTION void operator()(const Member& member) const {
    const Index agent = member.league_rank();
    hm::Call<hm::exec::Team<Member>> call{.space = {member}};
    const Index* const i = batch.data();
    call.batch = {seen, 1, seen, i, i + 2, i + 3, i + 4, i + 4 + seen};
    std::byte* const begin = &scratch(agent, 0);
    call.arena = {begin, begin + scratch.extent(1)};
    Policy::forward<hm::Packed>(call, parameters, &observed(agent, 0), &state(agent, 0), 0, i + 4 + 2 * seen, 1,
                                &logits(agent, 0));
  }
};
//! [team]

int main(int count, char** words) {
  const Kokkos::ScopeGuard kokkos(count, words);
  const Space instance;  // the simulation's own instance
  const auto model = hm::pack(hm::Model<Policy, float, hm::exec::On<Space>>{hm::Seed{5}, {instance}});

  //! [batched]
  // (1) All agents in one call: feed what each observed, read the logits.
  auto session =
      hm::generate::Session<std::remove_const_t<decltype(model)>>::create(model, {.sequences = agents, .rows = agents * seen});
  if (!session) return std::puts(session.error().message().c_str()), 1;
  std::vector<std::int32_t> symbols(agents * seen);
  for (std::size_t k = 0; k < symbols.size(); ++k) symbols[k] = static_cast<std::int32_t>(k * k % 16);
  std::vector<hm::generate::Piece> pieces;
  for (Index a = 0; a < agents; ++a) pieces.push_back({a, {symbols.data() + a * seen, seen}});
  if (const auto fed = session->feed(pieces); !fed) return std::puts(fed.error().message().c_str()), 1;
  //! [batched]

  // (2) The same networks inside our own parallel_for.
  constexpr Index state_bytes = Policy::state_stride<float>(),
                  scratch_bytes = Policy::workspace_bytes<float, hm::Packed>(hm::Extent{seen, 1, false}, 1);
  Think think{model.parameters(),
              Kokkos::View<std::int32_t* [seen], Kokkos::LayoutRight, Space>("observed", agents),
              Kokkos::View<std::byte**, Kokkos::LayoutRight, Space>("state", agents, state_bytes),
              Kokkos::View<std::byte**, Kokkos::LayoutRight, Space>("scratch", agents, scratch_bytes),
              Kokkos::View<Index*, Space>("batch", 5 + 2 * seen),
              Scalars("logits", agents)};
  hm::BatchPlan plan(seen, 1);
  plan.add(0, 0, seen);
  const auto host_batch = Kokkos::create_mirror_view(think.batch);
  std::copy_n(plan.data(), plan.count(), host_batch.data());
  host_batch(plan.count()) = seen - 1;  // logits of the last row
  Kokkos::deep_copy(think.batch, host_batch);
  const auto host_observed = Kokkos::create_mirror_view(think.observed);
  std::copy(symbols.begin(), symbols.end(), host_observed.data());
  Kokkos::deep_copy(think.observed, host_observed);
  Kokkos::parallel_for("agents", Kokkos::TeamPolicy<Space>(instance, agents, 1), think);
  instance.fence();

  const auto answers = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, think.logits);
  Index different = 0;
  for (Index a = 0; a < agents; ++a)
    for (Index v = 0; v < 16; ++v)
      if (session->logits(a)[static_cast<std::size_t>(v)] != answers(static_cast<std::size_t>(a), static_cast<std::size_t>(v)))
        ++different;
  std::printf("%lld agents, %lld of %lld logits differ between the batched call and the agents' own kernels\n",
              static_cast<long long>(agents), static_cast<long long>(different), static_cast<long long>(agents * 16));
  return different == 0 ? 0 : 1;
}
