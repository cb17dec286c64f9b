// The account: its address, and setting or changing the password.

import { Refused } from "../api.js";
import { h, setText } from "../dom.js";
import { passwordMessage } from "../messages.js";
import { links } from "../router.js";
import { busy, cardForm, field, Outcome, pageHeading } from "../ui.js";
import type { SignedIn, View } from "../view.js";

/** PROTOCOL.md section 1.1. */
const MIN = 10;
const MAX = 200;

export function accountView(context: SignedIn): View {
  const { email, has_password } = context.me.user;
  let has = has_password;
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
  const submit = h("button", { type: "submit", class: "button button-primary" });
  const title = h("h2");
  const hint = h(
    "p",
    { class: "hint" },
    "So far you sign in by one-time links. With a password you can sign in by yourself.",
  );
  const adapt = () => {
    current.row.hidden = !has;
    hint.hidden = has;
    setText(title, has ? "Change your password" : "Set a password");
    setText(submit, has ? "Change password" : "Set password");
  };
  adapt();

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
      // Not for an account that another tab signed in to: a first password needs no current one.
      if (!(await context.renew())) return;
      await context.api.setPassword(has ? current.input.value : undefined, next.input.value);
    } catch (error) {
      outcome.show("bad", passwordMessage(error));
      if (error instanceof Refused && error.code === "sign_in_failed") current.input.focus();
      return;
    }
    for (const { input } of [current, next, again]) input.value = "";
    has = true;
    adapt();
    outcome.show(
      "good",
      "The password is saved. Use it from now on to sign in. Whatever is signed in already stays signed in; end what you do not know under ",
      h("a", { href: links.sessions }, "Sessions"),
      ".",
    );
    // Only what other pages show depends on it; the password is saved either way.
    await context.renew().catch(() => undefined);
  };

  const form = cardForm(
    () => {
      void busy(submit, save);
    },
    title,
    hint,
    username,
    current.row,
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
