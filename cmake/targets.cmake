# The library's targets. All are headers: a target says what a program that includes one of the front doors needs.
#   hybridmoe::inline   one thread, no dependency
#   hybridmoe::io       files; nlohmann-json is used where the program's project has found it (for configuration files)
#   hybridmoe::kokkos   any Kokkos space; the program's project brings Kokkos
#   hybridmoe::cuda     Kokkos' CUDA space
function(hybridmoe_target name)
  add_library(hybridmoe_${name} INTERFACE)
  add_library(hybridmoe::${name} ALIAS hybridmoe_${name})
  set_target_properties(hybridmoe_${name} PROPERTIES EXPORT_NAME ${name})
endfunction()

hybridmoe_target(inline)
target_compile_features(hybridmoe_inline INTERFACE cxx_std_20)
target_include_directories(hybridmoe_inline INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                                      $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

hybridmoe_target(io)
target_link_libraries(hybridmoe_io INTERFACE hybridmoe::inline $<TARGET_NAME_IF_EXISTS:nlohmann_json::nlohmann_json>)

hybridmoe_target(kokkos)
target_link_libraries(hybridmoe_kokkos INTERFACE hybridmoe::io Kokkos::kokkos)

# constexpr functions of the standard library are called on the device; and a header shared by host and device makes nvcc
# warn of host functions (20011, 20014) in paths that the device never takes; the others are a conversion that a constraint
# leaves out (554) and a lambda called with its template argument (445). CMake before 3.26 does not know how to ask nvcc for C++20.
hybridmoe_target(cuda)
target_link_libraries(hybridmoe_cuda INTERFACE hybridmoe::kokkos)
target_compile_options(hybridmoe_cuda INTERFACE
                       "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-std=c++20 --expt-relaxed-constexpr --diag-suppress=20011$<COMMA>20014$<COMMA>554$<COMMA>445>")
