// Text as key presses. A console takes scancodes, so each character is the key it lies on, with Shift held where needed.
// The keys are those of the US layout, which is what the desktop must be set to for signs to come out right.

const SHIFT = [0xffe1, "ShiftLeft"];
const PLAIN = new Map();

function lay(characters, codes, shift) {
  [...characters].forEach((character, at) => PLAIN.set(character, { code: codes[at], shift }));
}

const LETTERS = [..."abcdefghijklmnopqrstuvwxyz"];
lay(LETTERS.join(""), LETTERS.map((letter) => `Key${letter.toUpperCase()}`), false);
lay(LETTERS.join("").toUpperCase(), LETTERS.map((letter) => `Key${letter.toUpperCase()}`), true);
const DIGITS = [..."1234567890"].map((digit) => `Digit${digit}`);
lay("1234567890", DIGITS, false);
lay("!@#$%^&*()", DIGITS, true);
const SIGNS = ["Backquote", "Minus", "Equal", "BracketLeft", "BracketRight", "Backslash", "Semicolon", "Quote", "Comma", "Period", "Slash"];
lay("`-=[]\\;',./", SIGNS, false);
lay("~_+{}|:\"<>?", SIGNS, true);
PLAIN.set(" ", { code: "Space", shift: false });
PLAIN.set("\n", { code: "Enter", shift: false, keysym: 0xff0d });
PLAIN.set("\t", { code: "Tab", shift: false, keysym: 0xff09 });

export const SPECIAL = { Backspace: [0xff08, "Backspace"], Enter: [0xff0d, "Enter"], Tab: [0xff09, "Tab"], Escape: [0xff1b, "Escape"], ArrowLeft: [0xff51, "ArrowLeft"], ArrowUp: [0xff52, "ArrowUp"], ArrowRight: [0xff53, "ArrowRight"], ArrowDown: [0xff54, "ArrowDown"] };

const PAUSE_MS = 30; // a fast typist's: a guest's keyboard holds few keys, and one that is busy fetches them late

// Press the keys for this text on a console, telling now and then how many per cent are done; answers how many characters
// no key could be found for.
export async function type(session, text, told = () => {}) {
  let lost = 0;
  const characters = [...text.replace(/\r\n?/g, "\n")];
  for (const [at, character] of characters.entries()) {
    if (at && at % 30 === 0) told(Math.floor(100 * at / characters.length));
    const key = PLAIN.get(character);
    if (!key) { lost += 1; continue; }
    const keysym = key.keysym ?? character.codePointAt(0);
    if (key.shift) session.sendKey(...SHIFT, true);
    session.sendKey(keysym, key.code, true);
    session.sendKey(keysym, key.code, false);
    if (key.shift) session.sendKey(...SHIFT, false);
    await new Promise((done) => setTimeout(done, PAUSE_MS));
  }
  return lost;
}

export function press(session, name) { session.sendKey(...SPECIAL[name]); }
