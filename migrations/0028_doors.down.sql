drop function app.viewer(text);
drop function app.enter_tenant(text, uuid, text, text);
