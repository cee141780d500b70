// Every room's asio.hpp: penstock in an Asio program.
// Floor 8: the umbrella with Asio.
#pragma once

#include <penstock/bus/asio.hpp>
#include <penstock/exec/asio.hpp>
#include <penstock/task/asio.hpp>
#include <penstock/penstock.hpp>
