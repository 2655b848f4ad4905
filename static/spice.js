// A SPICE console in the page, to be used as noVNC's RFB is. spice-client's file is served as it was published; what has
// to be otherwise is changed here, at run time (docs/adr/0012).

import { SpiceCursorConn, SpiceDisplayConn, SpiceMainConn } from "./vendor/spice-client/index.js";
import { CLIENT_MODE, Inputs } from "./spice_input.js";

const CHANNELS_LIST = 104;
const DISPLAY = 2, INPUTS = 3, CURSOR = 4, PLAYBACK = 5;
const SHOWN = new Set([DISPLAY, INPUTS, CURSOR, PLAYBACK]); // not the microphone, nor USB
const PICTURE_MS = 45000; // the gateway waits for a VM's earlier session, and for the display's password
const MAIN_SAYS_MS = 1000; // main knows best why a session ended, and hears it last
const NO_PICTURE = { code: 4005, reason: "The desktop's screen did not come." };

let current = null; // the console whose channels are being opened

// spice-client asks for the subprotocol `binary` alone: the ticket is put beside it, for each channel of the console.
window.WebSocket = new Proxy(window.WebSocket, {
  construct(Plain, [url, protocols]) {
    const ours = current?.address === new URL(url, location.href).href ? current : null;
    const socket = new Plain(url, ours ? ours.protocols : protocols);
    ours?.take(socket);
    return socket;
  },
});

// A channel's trouble is told by its socket's end; spice-client would throw where nobody catches.
Object.getPrototypeOf(SpiceMainConn.prototype).report_error = function (error) { this.onerror?.(error); };

// spice-client would read the person's clipboard, and write it, whenever the desktop asks: it does neither. What they
// paste is typed.
Object.assign(SpiceMainConn.prototype, {
  handle_clipboard_grab() {},
  handle_clipboard_receive() {},
  handle_clipboard_send() {},
  send_clipboard_grab() {},
});

after(SpiceMainConn, function (told, message) {
  if (message.type === CHANNELS_LIST) message.data = shown(message.data);
  return told(message);
});

// Where the desktop hides its pointer and ours is the one that counts, ours stays to be seen.
after(SpiceCursorConn, function (told, message) {
  const known = told(message);
  const { style } = this.parent.console.screen;
  if (style.cursor === "none" && this.parent.mouse_mode === CLIENT_MODE) style.cursor = "default";
  return known;
});

SpiceDisplayConn.prototype.hook_events = function () { this.parent.console.drawn(this.surfaces[this.primary_surface].canvas); };
SpiceDisplayConn.prototype.unhook_events = function () {};

function after(channel, does) {
  const told = channel.prototype.process_channel_message;
  channel.prototype.process_channel_message = function (message) { return does.call(this, told.bind(this), message); };
}

// The list of channels, without those that nothing here can show.
function shown(data) {
  const bytes = new Uint8Array(data);
  const kept = [];
  for (let at = 4; at < bytes.length; at += 2) if (SHOWN.has(bytes[at])) kept.push(bytes[at], bytes[at + 1]);
  return new Uint8Array([kept.length / 2, 0, 0, 0, ...kept]).buffer;
}

class SpiceConsole {
  constructor(place, viewer, { opened, ended, fit }) {
    this.address = new URL(viewer.url).href;
    this.protocols = viewer.protocols;
    this._opened = opened;
    this._ended = ended;
    this._sockets = new Set();
    this._over = this._open = false;
    this._fit = fit;
    this._size = "";
    this.screen = Object.assign(document.createElement("div"), { id: "spice", className: "lh-spice", tabIndex: 0 });
    this.screen.role = "application";
    this.screen.ariaLabel = place.ariaLabel;
    place.replaceChildren(this.screen);
    current = this;
    this._main = new SpiceMainConn({
      uri: this.address,
      password: "", // the gateway proves who we are, and knows the VM's own
      screen_id: this.screen.id,
      scale_view: false,
      onerror: () => setTimeout(() => this._end(NO_PICTURE), MAIN_SAYS_MS),
      onagent: () => this._resize(true),
    });
    this._main.console = this;
    this._inputs = new Inputs(this.screen, this._main);
    this._patience = setTimeout(() => this._end(NO_PICTURE), PICTURE_MS);
    this._watch = new ResizeObserver(() => {
      clearTimeout(this._settling);
      this._settling = setTimeout(() => this._resize(), 250);
    });
    this._watch.observe(this.screen);
  }

  // A channel's socket is made: its end may be that of the console.
  take(socket) {
    this._sockets.add(socket);
    socket.addEventListener("message", (event) => { if (this._over) event.stopImmediatePropagation(); });
    socket.addEventListener("close", (event) => {
      this._sockets.delete(socket);
      const type = socket.parent?.type;
      if (type === DISPLAY || type === INPUTS) setTimeout(() => this._end(event), MAIN_SAYS_MS);
      else if (type === 1) this._end(event);
    });
  }

  // The desktop's screen is there, at first and whenever its resolution changes.
  drawn(canvas) {
    canvas.removeAttribute("tabindex"); // the keys go to the screen, which outlives its canvases
    this._inputs.listen(canvas);
    if (this._open) return;
    this._open = true;
    clearTimeout(this._patience);
    this._resize();
    this._opened();
  }

  set resizeSession(fit) {
    this._fit = fit;
    this._resize(true);
  }

  // Ask the desktop for the resolution of the window; what cannot be done is scaled.
  _resize(anew = false) {
    const [width, height] = [this.screen.clientWidth & ~7, this.screen.clientHeight & ~7];
    const size = `${width}x${height}`;
    if (!this._fit || !this._open || this._over || !width || !height || (size === this._size && !anew)) return;
    this._size = size;
    this._main.resize_window(0, width, height, 32, 0, 0);
  }

  sendKey(keysym, code, down) {
    if (down !== false) this._inputs.key(code, true);
    if (down !== true) this._inputs.key(code, false);
  }

  sendCtrlAltDel() {
    const codes = ["ControlLeft", "AltLeft", "Delete"];
    for (const code of codes) this._inputs.key(code, true);
    for (const code of codes.reverse()) this._inputs.key(code, false);
  }

  focus() { this.screen.focus({ preventScroll: true }); }

  blur() { this.screen.blur(); }

  disconnect() { this._end(null); }

  _end(why) {
    if (this._over) return;
    this._inputs.stop();
    this._over = true;
    clearTimeout(this._patience);
    clearTimeout(this._settling);
    this._watch.disconnect();
    this._main.stop();
    for (const socket of this._sockets) socket.close();
    this.screen.remove();
    if (current === this) current = null;
    this._ended(why);
  }
}

export function open(place, viewer, how) { return new SpiceConsole(place, viewer, how); }
