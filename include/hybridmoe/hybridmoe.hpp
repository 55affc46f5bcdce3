#pragma once
/// @file hybridmoe.hpp
/// The inline front door: what models are made of, training and generation; needs no library. kokkos.hpp and cuda.hpp add
/// execution spaces; published models are in zoo/, files and checkpoints in io/, the laws for your own layers in check/. The
/// model comes first, and parts before what is made of them: messages about a wrong one are then shorter.

#include <hybridmoe/model/check.hpp>
#include <hybridmoe/model/language_model.hpp>

#include <hybridmoe/attention/softmax.hpp>
#include <hybridmoe/channel/gated.hpp>
#include <hybridmoe/channel/gelu.hpp>
#include <hybridmoe/channel/moe.hpp>
#include <hybridmoe/channel/nothing.hpp>
#include <hybridmoe/channel/swiglu.hpp>
#include <hybridmoe/generate/generate.hpp>
#include <hybridmoe/generate/stepper.hpp>
#include <hybridmoe/model/model.hpp>
#include <hybridmoe/norm/layer_norm.hpp>
#include <hybridmoe/norm/rms_norm.hpp>
#include <hybridmoe/position/rotary.hpp>
#include <hybridmoe/router/top_k.hpp>
#include <hybridmoe/ssm/mamba2.hpp>
#include <hybridmoe/train/fit.hpp>

#include <hybridmoe/attention/adaptive.hpp>
#include <hybridmoe/attention/cross_scale.hpp>
#include <hybridmoe/attention/latent.hpp>
#include <hybridmoe/attention/together.hpp>
#include <hybridmoe/channel/hybrid_moe.hpp>
#include <hybridmoe/control/complexity.hpp>
#include <hybridmoe/control/controller.hpp>
#include <hybridmoe/embedding/segments.hpp>
#include <hybridmoe/norm/adaptive.hpp>
#include <hybridmoe/router/dynamic.hpp>
#include <hybridmoe/router/placebo.hpp>
