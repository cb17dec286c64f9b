// A one-time link. It signs in by itself, unless somebody is signed in already: then it asks, so that
// a link sent by a stranger cannot swap the account unnoticed.

import { h } from "../dom.js";
import { linkMessage } from "../messages.js";
import { links } from "../router.js";
import { busy, notice, Outcome, pageHeading } from "../ui.js";
import type { Context, View } from "../view.js";

export function linkView(context: Context, token: string, signedInAs: string | undefined): View {
  const outcome = new Outcome();
  const instead = h("button", { type: "button", class: "button", hidden: true }, "Sign in with a password");
  instead.addEventListener("click", () => context.go(links.signIn));
  const element = h("section", { class: "narrow" }, pageHeading("Signing in"));

  const use = async () => {
    outcome.clear();
    try {
      await context.api.link(token);
    } catch (error) {
      outcome.show("bad", linkMessage(error));
      instead.hidden = false;
      return;
    }
    await context.reload();
    context.announce("You are signed in.");
  };

  if (signedInAs === undefined) {
    element.append(
      h("p", { class: "lead" }, "Your link is being checked."),
      outcome.element,
      h("div", { class: "actions" }, instead),
    );
    void use();
  } else {
    const go = h("button", { type: "button", class: "button button-primary" }, "Use the link");
    go.addEventListener("click", () => void busy(go, use));
    element.append(
      notice(
        "warn",
        `You are signed in as ${signedInAs}. The link may belong to another account. Use it only if you asked for it.`,
      ),
      outcome.element,
      h("div", { class: "actions" }, go, h("a", { class: "button", href: links.hosts }, "Stay signed in")),
    );
  }
  return { title: "Signing in", element };
}
