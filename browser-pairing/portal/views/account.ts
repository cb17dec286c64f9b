// The account: its address, and setting or changing the password.

import { Refused } from "../api.js";
import { h } from "../dom.js";
import { passwordMessage } from "../messages.js";
import { busy, field, Outcome, pageHeading } from "../ui.js";
import type { SignedIn, View } from "../view.js";

/** PROTOCOL.md section 1.1. */
const MIN = 10;
const MAX = 200;

export function accountView(context: SignedIn): View {
  const { email, has_password: has } = context.me.user;
  const outcome = new Outcome();
  // Not shown, but it tells password managers whose password this is.
  const username = h("input", {
    type: "text",
    name: "username",
    autocomplete: "username",
    value: email,
    hidden: true,
    "aria-hidden": "true",
    tabindex: -1,
    readonly: true,
  });
  const current = field("Current password", {
    type: "password",
    name: "current",
    autocomplete: "current-password",
    maxlength: MAX,
  });
  const next = field(
    "New password",
    { type: "password", name: "new", autocomplete: "new-password", minlength: MIN, maxlength: MAX },
    `At least ${MIN} characters. A few words that only you combine are good.`,
  );
  const again = field("New password again", {
    type: "password",
    name: "again",
    autocomplete: "new-password",
    maxlength: MAX,
  });
  const submit = h(
    "button",
    { type: "submit", class: "button button-primary" },
    has ? "Change password" : "Set password",
  );

  const save = async () => {
    outcome.clear();
    if (has && current.input.value === "") {
      current.complain("Write your current password.");
      current.input.focus();
      return;
    }
    const length = [...next.input.value].length;
    if (length < MIN || length > MAX) {
      next.complain(`A password has ${MIN} to ${MAX} characters.`);
      next.input.focus();
      return;
    }
    if (again.input.value !== next.input.value) {
      again.complain("The two do not match.");
      again.input.focus();
      return;
    }
    try {
      await context.api.setPassword(has ? current.input.value : undefined, next.input.value);
    } catch (error) {
      outcome.show("bad", passwordMessage(error));
      if (error instanceof Refused && error.code === "sign_in_failed") current.input.focus();
      return;
    }
    await context.reload();
    context.announce("The password is saved.");
  };

  const form = h(
    "form",
    {
      class: "card form",
      novalidate: true,
      on: {
        submit: (event: SubmitEvent) => {
          event.preventDefault();
          void busy(submit, save);
        },
      },
    },
    h("h2", {}, has ? "Change your password" : "Set a password"),
    !has &&
      h(
        "p",
        { class: "hint" },
        "So far you sign in by one-time links. With a password you can sign in by yourself.",
      ),
    username,
    has && current.row,
    next.row,
    again.row,
    outcome.element,
    h("div", { class: "actions" }, submit),
  );
  return {
    title: "Account",
    element: h(
      "section",
      { class: "narrow" },
      pageHeading("Account"),
      h("p", { class: "lead" }, "Signed in as ", h("strong", {}, email), "."),
      form,
    ),
  };
}
