-- Forward-auth for HAProxy 2.6 and newer: asks the identity proxy in FORWARD_AUTH_URL about each request, by its
-- head alone, with HAProxy's own HTTP client.
--
-- Sets txn.forward_auth to "yes" on an answer of 2xx, and txn.auth_user to its X-Auth-User. Anything else, an
-- identity proxy that does not answer too, leaves "no", and the configuration refuses the request.

-- What the identity proxy decides by; the body and what belongs to the connection stay here.
local PASSED = { "host", "cookie", "authorization", "accept", "user-agent", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host" }

local TIMEOUT_MS = 10000

local url = os.getenv("FORWARD_AUTH_URL")

local function ask(txn)
    local sent = txn.http:req_get_headers()
    local headers = {}
    for _, name in ipairs(PASSED) do
        local lines = sent[name]
        if lines then
            headers[name] = {}
            for at = 0, #lines do headers[name][at + 1] = lines[at] end
        end
    end
    headers["x-forwarded-uri"] = { txn.f:pathq() }
    headers["x-forwarded-method"] = { txn.f:method() }
    return core.httpclient():get({ url = url, headers = headers, timeout = TIMEOUT_MS })
end

core.register_action("forward-auth", { "http-req" }, function(txn)
    txn:set_var("txn.forward_auth", "no")
    local asked, answer = pcall(ask, txn)
    if not asked or not answer or not answer.status then return end
    if answer.status < 200 or answer.status > 299 then return end
    txn:set_var("txn.forward_auth", "yes")
    local user = answer.headers and answer.headers["x-auth-user"]
    if user and user[0] then txn:set_var("txn.auth_user", user[0]) end
end)
