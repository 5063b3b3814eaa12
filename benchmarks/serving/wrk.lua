-- Sends the given bodies in turn and says "enough" when the load has lasted long enough and answered often enough;
-- at the end it prints one line of JSON. benchmarks/serving/wrk.py gives the arguments and reads both:
-- seconds, least answers, the path of a file with one "Name: value" header a line, then the files of the bodies.

local ffi = require("ffi")
ffi.cdef("struct bench_time { long seconds, nanoseconds; }; int clock_gettime(int clock, struct bench_time *now);")

local requests, turn, threads = {}, 0, {}
local moment = ffi.new("struct bench_time")
local least_seconds, least_answers, is_told
-- Global, so that the main thread can read them.
first, last, answers, refused = 0, 0, 0, 0

local function now()
  ffi.C.clock_gettime(1, moment) -- CLOCK_MONOTONIC
  return tonumber(moment.seconds) + tonumber(moment.nanoseconds) / 1e9
end

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  least_seconds, least_answers = tonumber(arguments[1]), tonumber(arguments[2])
  local headers = {}
  for line in io.lines(arguments[3]) do
    local name, value = line:match("^([^:]+): (.*)$")
    headers[name] = value
  end
  for i = 4, #arguments do
    local file = assert(io.open(arguments[i], "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  if first == 0 then first = now() end
  turn = turn % #requests + 1
  return requests[turn]
end

-- The load ends with an answer, not somewhere between two: of a slow server's batches, one more or less would count.
function response(status)
  if is_told then return end
  last, answers = now(), answers + 1
  if status >= 400 then refused = refused + 1 end
  if last - first >= least_seconds and answers >= least_answers then
    is_told = true
    io.write("enough\n")
    io.flush()
  end
end

function done(summary, latency)
  local thread, errors = threads[1], summary.errors
  local counted = tonumber(thread:get("answers"))
  local seconds = tonumber(thread:get("last")) - tonumber(thread:get("first"))
  if counted == 0 then seconds = summary.duration / 1e6 end
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "socket_errors": %d, "timeouts": %d, ' ..
    '"p50_ms": %.4f, "p90_ms": %.4f, "p99_ms": %.4f}\n',
    counted, seconds, tonumber(thread:get("refused")), errors.connect + errors.read + errors.write,
    errors.timeout, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3))
end
