// Keys, mouse and fingers as SPICE messages. noVNC's own keyboard and gestures read them, so that both kinds of console
// feel alike; spice-client's would count the pixels of a scaled screen as the desktop's, and show an alert for a key it
// does not know.

import Keyboard from "./vendor/novnc/core/input/keyboard.js";
import GestureHandler from "./vendor/novnc/core/input/gesturehandler.js";
import SCANCODES from "./vendor/novnc/core/input/xtscancodes.js";

const KEY_DOWN = 101, KEY_UP = 102, MOTION = 111, POSITION = 112, PRESS = 113, RELEASE = 114;
export const CLIENT_MODE = 2; // the desktop has a tablet or an agent: the pointer is where we say
const LEFT = 1, MIDDLE = 2, RIGHT = 3, UP = 4, DOWN = 5;
const BUTTONS = [LEFT, MIDDLE, RIGHT, 6, 7]; // a browser's number -> SPICE's
const TAPS = { onetap: LEFT, twotap: RIGHT, threetap: MIDDLE };
const HOLDS = { drag: LEFT, longpress: RIGHT };
const STEP = 50; // pixels of wheel or fingers that are one notch

function message(type, size, fill) {
  return {
    type,
    buffer_size: () => 6 + size,
    to_buffer(buffer) {
      const view = new DataView(buffer);
      view.setUint16(0, type, true);
      view.setUint32(2, size, true);
      fill(view);
    },
  };
}

export class Inputs {
  constructor(screen, main) {
    this._screen = screen;
    this._main = main;
    this._canvas = null;
    this._held = 0; // the buttons that are down, as SPICE's bits
    this._next = null; // where the pointer is, while nobody has been told
    this._scrolled = 0;
    this._keyboard = new Keyboard(screen);
    this._keyboard.onkeyevent = (keysym, code, down) => this.key(code, down);
    this._gestures = new GestureHandler();
    this._stopped = new AbortController();
  }

  // Take them from now on; anew for each canvas, of which each resolution has its own.
  listen(canvas) {
    const first = this._canvas === null;
    this._canvas = canvas;
    if (!first) return;
    const on = (name, does, options) => this._screen.addEventListener(name, does.bind(this), { ...options, signal: this._stopped.signal });
    this._keyboard.grab();
    this._gestures.attach(this._screen);
    on("blur", this._released);
    on("pointerdown", (event) => { if (event.pointerType === "mouse") this._screen.setPointerCapture(event.pointerId); });
    on("mousemove", this._moved);
    on("mousedown", (event) => { this._screen.focus({ preventScroll: true }); this._clicked(event, true); });
    on("mouseup", (event) => this._clicked(event, false));
    on("wheel", this._wheeled, { passive: false });
    on("contextmenu", (event) => event.preventDefault());
    for (const name of ["gesturestart", "gesturemove", "gestureend"]) on(name, this._touched);
  }

  stop() {
    this._stopped.abort();
    this._keyboard.ungrab();
    this._gestures.detach();
  }

  // ---- keys ------------------------------------------------------------------------------------------------
  // One key by its place on the keyboard.
  key(code, down) {
    const scancode = SCANCODES[code];
    if (scancode === undefined) return;
    const last = (scancode & 0xff) | (down ? 0 : 0x80);
    const bytes = scancode > 0xff ? 0xe0 | (last << 8) : last;
    this._send(message(down ? KEY_DOWN : KEY_UP, 4, (view) => view.setUint32(6, bytes, true)));
  }

  // Whoever leaves the screen with keys held down must not leave them held in the desktop.
  _released() {
    this._keyboard.ungrab();
    this._keyboard.grab();
  }

  // ---- pointer ---------------------------------------------------------------------------------------------
  _moved(event) {
    if (this._main.mouse_mode === CLIENT_MODE) this._point(event.clientX, event.clientY);
    else this._push(event.movementX, event.movementY);
  }

  _clicked(event, down) {
    event.preventDefault();
    if (this._main.mouse_mode === CLIENT_MODE) this._point(event.clientX, event.clientY);
    const button = BUTTONS[event.button];
    if (button) this._button(button, down);
  }

  _wheeled(event) {
    event.preventDefault();
    this._scroll(event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY : event.deltaY * STEP);
  }

  _scroll(pixels) {
    this._scrolled += pixels;
    for (; Math.abs(this._scrolled) >= STEP; this._scrolled -= Math.sign(this._scrolled) * STEP) {
      const button = this._scrolled < 0 ? UP : DOWN;
      this._button(button, true);
      this._button(button, false);
    }
  }

  _touched(event) {
    const { type, clientX, clientY, magnitudeY } = event.detail;
    if (type !== "pinch") this._point(clientX, clientY);
    if (event.type === "gesturestart") {
      this._lastY = magnitudeY;
      if (TAPS[type]) { this._button(TAPS[type], true); this._button(TAPS[type], false); }
      if (HOLDS[type]) this._button(HOLDS[type], true);
    } else if (event.type === "gestureend") {
      if (HOLDS[type]) this._button(HOLDS[type], false);
    } else if (type === "twodrag") {
      this._scroll(this._lastY - magnitudeY);
      this._lastY = magnitudeY;
    }
  }

  // The desktop's pixel below this point of the page; the picture keeps its shape in the middle of its canvas.
  _point(clientX, clientY) {
    const { width, height } = this._canvas;
    const box = this._canvas.getBoundingClientRect();
    const scale = Math.min(box.width / width, box.height / height) || 1;
    const inside = (at, middle, size) => Math.max(0, Math.min(size - 1, Math.floor((at - middle) / scale + size / 2)));
    const first = this._next === null;
    this._next = [inside(clientX, box.left + box.width / 2, width), inside(clientY, box.top + box.height / 2, height)];
    if (first) requestAnimationFrame(() => this._tell());
  }

  _tell() {
    if (this._next === null) return;
    const [x, y] = this._next;
    this._next = null;
    this._send(message(POSITION, 11, (view) => {
      view.setUint32(6, x, true);
      view.setUint32(10, y, true);
      view.setUint16(14, this._held, true);
    }));
  }

  _push(right, down) {
    this._send(message(MOTION, 10, (view) => {
      view.setInt32(6, right, true);
      view.setInt32(10, down, true);
      view.setUint16(14, this._held, true);
    }));
  }

  _button(button, down) {
    this._tell();
    const bit = 1 << (button - 1);
    this._held = down ? this._held | bit : this._held & ~bit;
    this._send(message(down ? PRESS : RELEASE, 3, (view) => {
      view.setUint8(6, button);
      view.setUint16(7, this._held, true);
    }));
  }

  _send(what) {
    if (this._main.inputs?.state === "ready") this._main.inputs.send_msg(what);
  }
}
