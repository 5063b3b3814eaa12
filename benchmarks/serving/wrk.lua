-- Sends the given bodies in turn; at the end prints one line of JSON, which benchmarks/serving/wrk.py reads.
-- Arguments: the path of a file with one "Name: value" header a line, then the files of the bodies.

local requests, turn = {}, 0

function init(arguments)
  local headers = {}
  for line in io.lines(arguments[1]) do
    local name, value = line:match("^([^:]+): (.*)$")
    headers[name] = value
  end
  for i = 2, #arguments do
    local file = assert(io.open(arguments[i], "rb"))
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read("*a"))
    file:close()
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "refused": %d, "socket_errors": %d, "timeouts": %d, ' ..
    '"p50_ms": %.4f, "p90_ms": %.4f, "p99_ms": %.4f}\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write,
    errors.timeout, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3, latency:percentile(99) / 1e3))
end
