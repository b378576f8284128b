// JSON Patch (RFC 6902), applied in place: the document has no other owner.

/** Splits a JSON Pointer: "/works/team.train/stage" → ["works", "team.train", "stage"]. */
export function segments(pointer) {
  if (pointer === "") return [];
  if (pointer[0] !== "/") throw new Error(`${JSON.stringify(pointer)} is not a JSON Pointer`);
  const parts = pointer.slice(1).split("/");
  return pointer.includes("~") ? parts.map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~")) : parts;
}

function parentOf(root, path, pointer) {
  let at = root;
  for (let i = 0; i < path.length - 1; i++) at = at?.[path[i]];
  if (at === null || typeof at !== "object") throw new Error(`there is nothing at ${pointer}`);
  return at;
}

function read(root, pointer) {
  const path = segments(pointer);
  if (path.length === 0) return root.value;
  const value = parentOf(root.value, path, pointer)[path.at(-1)];
  if (value === undefined) throw new Error(`there is nothing at ${pointer}`);
  return value;
}

function add(root, pointer, value) {
  const path = segments(pointer);
  if (path.length === 0) return void (root.value = value);
  const parent = parentOf(root.value, path, pointer);
  const key = path.at(-1);
  if (!Array.isArray(parent)) return void define(parent, key, value);
  const index = key === "-" ? parent.length : Number(key);
  if (!(index >= 0 && index <= parent.length)) throw new Error(`${pointer} is outside of its list`);
  parent.splice(index, 0, value);
}

function replace(root, pointer, value) {
  const path = segments(pointer);
  if (path.length === 0) return void (root.value = value);
  const parent = parentOf(root.value, path, pointer);
  const key = path.at(-1);
  if (!Object.hasOwn(parent, key)) throw new Error(`there is nothing at ${pointer}`);
  define(parent, key, value);
}

function remove(root, pointer) {
  const path = segments(pointer);
  const parent = parentOf(root.value, path, pointer);
  const key = path.at(-1);
  if (path.length === 0 || !Object.hasOwn(parent, key)) throw new Error(`there is nothing at ${pointer}`);
  if (Array.isArray(parent)) parent.splice(Number(key), 1);
  else delete parent[key];
}

/** Sets a member whatever it is called: a field named `__proto__` is a field like any other. */
function define(object, key, value) {
  if (key === "__proto__") Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
  else object[key] = value;
}

/** Carries out `ops` and gives the document. Throws when one does not fit: the document is of no use then. */
export function apply(document, ops) {
  const root = { value: document };
  for (const op of ops) {
    switch (op.op) {
      case "add": add(root, op.path, op.value); break;
      case "replace": replace(root, op.path, op.value); break;
      case "remove": remove(root, op.path); break;
      case "copy": add(root, op.path, structuredClone(read(root, op.from))); break;
      case "move": {
        const value = read(root, op.from);
        remove(root, op.from);
        add(root, op.path, value);
        break;
      }
      case "test": if (JSON.stringify(read(root, op.path)) !== JSON.stringify(op.value)) throw new Error(`${op.path} is something else`); break;
      default: throw new Error(`there is no operation ${JSON.stringify(op.op)}`);
    }
  }
  return root.value;
}
