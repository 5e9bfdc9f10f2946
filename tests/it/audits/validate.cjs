// Judges documents as graphql-js does: node validate.cjs <node_modules> <schema.graphql> <documents.json> <verdicts.json>
const [modules, sdl, documents, verdicts] = process.argv.slice(2);
const fs = require("node:fs");
const { buildSchema, parse, specifiedRules, validate } = require(`${modules}/graphql`);
const schema = buildSchema(fs.readFileSync(sdl, "utf8"));
const judge = (text) => {
  let document;
  try {
    document = parse(text);
  } catch (error) {
    return { rules: null, messages: [error.message] };
  }
  const broken = specifiedRules.map((rule) => [rule.name.replace(/Rule$/, ""), validate(schema, document, [rule])]);
  const failed = broken.filter(([, errors]) => errors.length > 0);
  return { rules: failed.map(([name]) => name), messages: failed.map(([, errors]) => errors[0].message).slice(0, 3) };
};
fs.writeFileSync(verdicts, JSON.stringify(JSON.parse(fs.readFileSync(documents, "utf8")).map(judge)));
