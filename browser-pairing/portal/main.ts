// The portal as the relay serves it.

import { Api } from "./api.js";
import { start } from "./app.js";
import { relaySdk } from "./sdk.js";

start(new Api((input, init) => fetch(input, init)), relaySdk(location.origin));
