// A one-time link. It signs in by a click alone: whoever follows a stranger's link must not find
// themselves in the stranger's account unasked. Whose account it is, only the sign-in tells.

import { h, setText } from "../dom.js";
import { linkIsDead, linkMessage } from "../messages.js";
import { links } from "../router.js";
import { busy, notice, Outcome, pageHeading } from "../ui.js";
import type { Context, View } from "../view.js";

export function linkView(context: Context, token: string, signedInAs: string | undefined): View {
  const outcome = new Outcome();
  const use = h("button", { type: "button", class: "button button-primary" }, "Sign in with this link");
  const instead = h(
    "a",
    { class: "button", href: signedInAs === undefined ? links.signIn : links.hosts },
    signedInAs === undefined ? "Sign in with a password" : "Stay signed in",
  );

  const signIn = async () => {
    outcome.clear();
    try {
      await context.api.link(token);
    } catch (error) {
      outcome.show("bad", linkMessage(error));
      if (linkIsDead(error)) {
        use.hidden = true;
        instead.focus();
      } else setText(use, "Try again");
      return;
    }
    const me = await context.reload();
    if (me === undefined) return;
    const { email } = me.user;
    context.tell(
      "info",
      "The link signed you in as ",
      h("strong", {}, email),
      ". If that is not your account, sign out: whoever gave you the link sees what you do in it.",
    );
    context.announce(`You are signed in as ${email}.`);
  };
  use.addEventListener("click", () => void busy(use, signIn));

  return {
    title: "Sign in",
    element: h(
      "section",
      { class: "narrow" },
      pageHeading("Sign in with a link"),
      h(
        "p",
        { class: "lead" },
        "The link signs this browser in to the account that it was made for. It works once.",
      ),
      signedInAs === undefined
        ? notice("info", "Go on only if you asked for the link yourself.")
        : notice(
            "warn",
            `You are signed in as ${signedInAs}. The link may belong to another account. Use it only if you asked for it.`,
          ),
      outcome.element,
      h("div", { class: "actions" }, use, instead),
    ),
  };
}
