// A decoder drops a leading U+FEFF unless it is told not to. The contract passes text on as it is. Import this before the
// generated code, which makes decoders of its own.
const { TextDecoder } = globalThis;

globalThis.TextDecoder = class extends TextDecoder {
  constructor(label, options) {
    super(label, { ignoreBOM: true, ...options });
  }
};
