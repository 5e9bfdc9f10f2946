// Judges documents as graphql-js does: node validate.cjs <node_modules> <schema.graphql> <documents.json> <verdicts.json>
const [modules, sdl, documents, verdicts] = process.argv.slice(2);
const fs = require("node:fs");
const { buildSchema, parse, validate } = require(`${modules}/graphql`);
const schema = buildSchema(fs.readFileSync(sdl, "utf8"));
const judge = (text) => {
  try {
    return validate(schema, parse(text)).map((error) => error.message).slice(0, 3);
  } catch (error) {
    return [error.message];
  }
};
fs.writeFileSync(verdicts, JSON.stringify(JSON.parse(fs.readFileSync(documents, "utf8")).map(judge)));
