// A VNC console in the page.

import RFB from "./vendor/novnc/core/rfb.js";

export function open(place, viewer, { opened, ended, fit }) {
  const socket = new WebSocket(viewer.url, viewer.protocols);
  let why = null;
  socket.addEventListener("close", (event) => { why = event; });
  place.replaceChildren();
  const session = new RFB(place, socket, { shared: true });
  session.scaleViewport = true;
  session.resizeSession = fit;
  session.showDotCursor = true;
  session.focusOnClick = true;
  session.background = "transparent";
  session.addEventListener("connect", opened);
  session.addEventListener("securityfailure", (event) => { why = { code: 4000, reason: event.detail.reason || "The desktop refused the connection." }; });
  session.addEventListener("disconnect", () => ended(why));
  return session;
}
