// Approving a device login (RFC 8628): an agent shows a code, a person who is signed in types it here,
// sees what asks, and decides. The danger is a code that somebody else sent, so the page says so.

import { type DeviceRequest, Refused } from "../api.js";
import { isUserCode, userCode } from "../code-input.js";
import { fill, h } from "../dom.js";
import { ago, duration } from "../format.js";
import { apiMessage } from "../messages.js";
import { links } from "../router.js";
import { busy, cardForm, command, field, notice, Outcome, pageHeading } from "../ui.js";
import type { SignedIn, View } from "../view.js";

export function deviceView(context: SignedIn, fromLink: string): View {
  const element = h("section", { class: "narrow" });

  const askCode = (typed: string, problem?: string) => {
    const outcome = new Outcome();
    const code = field(
      "Code",
      {
        class: "input code-text",
        value: userCode(typed),
        placeholder: "XXXX-XXXX",
        autocomplete: "off",
        autocapitalize: "characters",
        spellcheck: "false",
        maxlength: 20,
      },
      "Eight letters, as the machine shows them.",
    );
    code.input.addEventListener("input", (event) => {
      if (event instanceof InputEvent && event.inputType.startsWith("delete")) return;
      const end = code.input.selectionStart === code.input.value.length;
      if (end) code.input.value = userCode(code.input.value);
    });
    const submit = h("button", { type: "submit", class: "button button-primary button-wide" }, "Continue");
    const look = async () => {
      outcome.clear();
      if (!isUserCode(code.input.value)) {
        code.complain("A code has eight letters, without vowels, as in BCDF-GHJK.");
        code.input.focus();
        return;
      }
      try {
        decide(await context.api.device(userCode(code.input.value)));
      } catch (error) {
        outcome.show("bad", lookMessage(error));
        code.input.focus();
        code.input.select();
      }
    };
    fill(
      element,
      pageHeading("Add a device"),
      h("p", { class: "lead" }, "Let a machine of yours connect to this relay in your name."),
      cardForm(
        () => {
          void busy(submit, look);
        },
        h(
          "div",
          {},
          h("p", {}, "Start the sign-in on the machine; it shows a code:"),
          command(`local-agent-client login ${location.origin}`),
        ),
        code.row,
        outcome.element,
        submit,
      ),
    );
    if (problem !== undefined) outcome.show("bad", problem);
    code.input.focus();
  };

  const decide = (request: DeviceRequest) => {
    const outcome = new Outcome();
    const now = context.api.now();
    const approve = h("button", { type: "button", class: "button button-primary" }, "Approve");
    const deny = h("button", { type: "button", class: "button" }, "Deny");
    const answer = (yes: boolean) => async () => {
      try {
        // Another tab may have changed the account under this page; what it names must be what approves.
        if (!(await context.renew())) return;
        await context.api.decideDevice(request.user_code, yes);
      } catch (error) {
        if (error instanceof Refused && error.code === "not_found")
          return askCode(
            "",
            "This request has expired or was already answered. Start the sign-in on the machine again.",
          );
        outcome.show("bad", apiMessage(error, yes ? "approve it" : "deny it"));
        return;
      }
      decided(request, yes);
    };
    approve.addEventListener("click", () => void busy(approve, answer(true)));
    deny.addEventListener("click", () => void busy(deny, answer(false)));
    fill(
      element,
      pageHeading("Is this your machine?"),
      h("p", { class: "lead" }, "It asks to act for ", h("strong", {}, context.me.user.email), "."),
      h(
        "div",
        { class: "card" },
        h("p", { class: "hint" }, "Code on the machine's screen"),
        h("p", { class: "fingerprint" }, request.user_code),
        h(
          "dl",
          { class: "facts-list" },
          h("dt", {}, "Name"),
          h("dd", {}, request.name === "" ? "not given" : request.name),
          h("dt", {}, "Address"),
          h("dd", {}, request.address === "" ? "not known" : request.address),
          h("dt", {}, "Asked"),
          h(
            "dd",
            {},
            `${ago(request.created_at, now)}, open for another ${duration(Math.max(0, request.expires_at - now))}`,
          ),
        ),
        notice(
          "warn",
          "Approve only if you started this yourself, just now, and the machine shows this very code. Whoever sent you a code or a link would otherwise get into your account.",
        ),
        outcome.element,
        h("div", { class: "actions" }, approve, deny),
      ),
    );
    element.querySelector("h1")?.focus();
  };

  const decided = (request: DeviceRequest, yes: boolean) => {
    const called = request.name === "" ? "The machine" : request.name;
    fill(
      element,
      pageHeading(yes ? "Approved" : "Denied"),
      yes
        ? notice(
            "good",
            `${called} is signed in within a few seconds. You can end it at any time under Sessions.`,
          )
        : notice(
            "info",
            `${called} was not signed in. If you did not start this, somebody may have wanted your approval; nothing was given away.`,
          ),
      h(
        "div",
        { class: "actions" },
        h("a", { class: "button button-primary", href: links.hosts }, "To your hosts"),
        h("a", { class: "button", href: links.sessions }, "Sessions"),
      ),
    );
    element.querySelector("h1")?.focus();
    context.announce(yes ? "Approved." : "Denied.");
  };

  const begin = () => {
    if (!isUserCode(fromLink)) return askCode(fromLink);
    fill(element, pageHeading("Add a device"), h("p", { class: "loading" }, "Looking the code up…"));
    element.querySelector("h1")?.focus();
    context.api
      .device(userCode(fromLink))
      .then(decide, (error: unknown) => askCode(fromLink, lookMessage(error)));
  };
  return { title: "Add a device", element, focus: begin };
}

function lookMessage(error: unknown): string {
  if (error instanceof Refused && error.code === "not_found") {
    return "No machine is waiting with this code. It may have expired (after 10 minutes) or been answered already.";
  }
  return apiMessage(error, "look the code up");
}
