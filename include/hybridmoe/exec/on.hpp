#pragma once
/// @file on.hpp
/// Any execution space of Kokkos: CPU threads, CUDA. Needs Kokkos; include it through kokkos.hpp.

#include <Kokkos_Core.hpp>

#include <hybridmoe/exec/buffer.hpp>

namespace hybridmoe::inline HYBRIDMOE_ABI::exec {

/// Kernels of this space read the host's memory.
template <class KokkosSpace>
concept OnHost = bool(Kokkos::SpaceAccessibility<KokkosSpace, Kokkos::HostSpace>::accessible);

/// Host spaces that have finished when parallel_for returns: the calling thread may run a lone item itself.
template <class KokkosSpace>
inline constexpr bool waits = [] {
  using Kokkos::Tools::Experimental::DeviceType;
  constexpr auto type = Kokkos::Tools::Experimental::DeviceTypeTraits<KokkosSpace>::id;
  return type == DeviceType::Serial || type == DeviceType::OpenMP || type == DeviceType::Threads;
}();

/// A kernel's items through the copy that all host spaces share.
template <class Kernel>
struct HostKernel {
  Kernel kernel;
  void operator()(Index i) const { items(kernel, i, i + 1); }
};

/// Runs kernels on the caller's instance of a Kokkos space (a stream, a partition of the threads) and on nothing else: it
/// never fences globally and never starts Kokkos, which the program has to have done before it makes one.
template <class KokkosSpace_>
struct On {
  using KokkosSpace = KokkosSpace_;
  KokkosSpace instance{};

  /// Runs kernel(0) … kernel(count−1) on the instance, after its earlier and before its later work. On a device this returns
  /// before the kernel has run. Host threads take items as they get free, since items may be unequal: one at a time until
  /// there are many per thread, then in small chunks.
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  template <class Kernel>
  HYBRIDMOE_FUNCTION void each(Index count, const Kernel& kernel) const {
    using Policy = Kokkos::RangePolicy<KokkosSpace, Kokkos::IndexType<Index>, Kokkos::Schedule<Kokkos::Dynamic>>;
    if (count <= 0) return;
    if constexpr (!OnHost<KokkosSpace>) {
      Kokkos::parallel_for("hybridmoe", Policy(instance, Index{0}, count), kernel);
    } else if (waits<KokkosSpace> && count == 1) {
      items(kernel, 0, 1);
    } else {
      Kokkos::parallel_for("hybridmoe", Policy(instance, Index{0}, count), HostKernel<Kernel>{kernel});
    }
  }
#if defined(__CUDACC__)
#pragma nv_exec_check_disable
#endif
  HYBRIDMOE_FUNCTION int concurrency() const { return instance.concurrency(); }
  /// Calls f(space) on the calling thread: a whole computation whose kernels run here.
  template <class Computation>
  void run(const Computation& f) const {
    f(*this);
  }
  /// Waits for the work of this instance, not for the rest of the device.
  void fence() const { instance.fence("hybridmoe"); }
};

/// A space object whose kernels cannot reach the host's memory.
template <class Space>
concept OnDevice = requires { typename Space::KokkosSpace; } && (!OnHost<typename Space::KokkosSpace>);

/// Memory of a device. (Spaces whose kernels reach the host's memory use the host's, as Inline does.)
template <OnDevice Space>
struct Memory<Space> {
  using Device = typename Space::KokkosSpace::memory_space;
  template <class Byte, class Where>
  using Bytes = Kokkos::View<Byte*, Where, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;

  /// Zeroed bytes in the device's memory, or null.
  static std::byte* allocate(const Space& space, Index bytes) {
    void* memory = nullptr;
    try {  // the only way in which Kokkos tells that memory is out
      memory = Kokkos::kokkos_malloc<Device>("hybridmoe", to_size(bytes < 1 ? 1 : bytes));
    } catch (...) {
      return nullptr;
    }
    zero(space, static_cast<std::byte*>(memory), bytes);
    return static_cast<std::byte*>(memory);
  }
  static void release(const Space& space, std::byte* memory) {
    space.fence();
    Kokkos::kokkos_free<Device>(memory);
  }
  static void copy_in(const Space& space, std::byte* to, const void* host, Index bytes) {
    const Bytes<const char, Kokkos::HostSpace> source(static_cast<const char*>(host), to_size(bytes));
    Kokkos::deep_copy(space.instance, view<char>(to, bytes), source);
    space.fence();
  }
  static void copy_out(const Space& space, void* host, const std::byte* from, Index bytes) {
    const Bytes<char, Kokkos::HostSpace> target(static_cast<char*>(host), to_size(bytes));
    Kokkos::deep_copy(space.instance, target, view<const char>(from, bytes));
    space.fence();
  }
  static void copy(const Space& space, std::byte* to, const std::byte* from, Index bytes) {
    Kokkos::deep_copy(space.instance, view<char>(to, bytes), view<const char>(from, bytes));
  }
  static void zero(const Space& space, std::byte* to, Index bytes) {
    Kokkos::deep_copy(space.instance, view<char>(to, bytes), char{0});
  }

 private:
  template <class Byte, class Pointer>
  static Bytes<Byte, Device> view(Pointer* bytes, Index count) {
    return {reinterpret_cast<Byte*>(bytes), to_size(count)};
  }
};

}  // namespace hybridmoe::exec
