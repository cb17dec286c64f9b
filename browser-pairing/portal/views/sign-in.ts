// Sign-in with an address and a password or at a provider, or a hint how to get a one-time link.

import { fill, h } from "../dom.js";
import { apiMessage, ssoMessage } from "../messages.js";
import type { SsoFailure } from "../router.js";
import { busy, cardForm, field, notice, Outcome, pageHeading } from "../ui.js";
import type { Context, View } from "../view.js";

export function signInView(context: Context, ended: boolean, failed?: SsoFailure): View {
  const elsewhere = h("div", { class: "elsewhere" });
  // The form is there at once; the buttons come when the relay has said whether there are any.
  void context.api.providers().then((providers) => {
    if (providers.length === 0) return;
    const links = providers.map(({ name, path }) => {
      const link = h("a", { class: "button button-wide", href: path }, `Sign in with ${name}`);
      link.addEventListener("click", () => context.leaves());
      return link;
    });
    fill(elsewhere, h("p", { class: "or" }, "or"), ...links);
  });

  const email = field("Email address", {
    type: "email",
    name: "email",
    autocomplete: "username",
    required: true,
    maxlength: 320,
  });
  const password = field("Password", {
    type: "password",
    name: "password",
    autocomplete: "current-password",
    required: true,
    maxlength: 200,
  });
  const submit = h("button", { type: "submit", class: "button button-primary button-wide" }, "Sign in");
  const outcome = new Outcome();

  const signIn = async () => {
    outcome.clear();
    const address = email.input.value.trim();
    if (!/^[^\s@]+@[^\s@]+$/.test(address)) {
      email.complain("Write your email address, as in you@example.org.");
      email.input.focus();
      return;
    }
    if (password.input.value === "") {
      password.complain("Write your password.");
      password.input.focus();
      return;
    }
    try {
      await context.api.login(address, password.input.value);
    } catch (error) {
      outcome.show("bad", apiMessage(error, "sign in"));
      password.input.focus();
      password.input.select();
      return;
    }
    password.input.value = "";
    await context.reload();
  };

  const form = cardForm(
    () => {
      void busy(submit, signIn);
    },
    email.row,
    password.row,
    outcome.element,
    submit,
  );
  return {
    title: "Sign in",
    element: h(
      "section",
      { class: "narrow sign-in" },
      pageHeading("Sign in"),
      h("p", { class: "lead" }, "Reach the machines that you have connected to this relay."),
      ended && notice("info", "Your sign-in has ended. Sign in again to go on where you were."),
      failed !== undefined && notice("bad", ssoMessage(failed)),
      form,
      elsewhere,
      h(
        "details",
        { class: "aside" },
        h("summary", {}, "No password yet, or forgotten?"),
        h(
          "p",
          {},
          "Whoever runs this relay can make a link that signs you in once, within 15 minutes. On the relay's machine:",
        ),
        h("pre", { class: "terminal" }, h("code", {}, "relay-server login you@example.org")),
        h("p", {}, "Open the link in this browser, then choose a password under Account."),
      ),
    ),
    focus: () => email.input.focus(),
  };
}
