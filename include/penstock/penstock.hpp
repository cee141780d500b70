// Everything a service needs, without Asio, spdlog or concurrentqueue behind it.
// Floor 7: the light umbrella.
#pragma once

#include <penstock/base/version.hpp>
#include <penstock/bus/event_bus.hpp>
#include <penstock/exec/run.hpp>
#include <penstock/exec/sleep.hpp>
#include <penstock/exec/task.hpp>
#include <penstock/exec/timer.hpp>
#include <penstock/exec/worker_pool.hpp>
#include <penstock/runtime/runtime.hpp>
#include <penstock/task/task_registry.hpp>
