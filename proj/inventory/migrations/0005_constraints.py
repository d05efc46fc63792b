"""What is gone has no word of Ganeti's, and a request names one instance or none by its kind."""

from django.db import migrations, models
from django.db.models import Q

GONE_HAS_NO_WORD = ~Q(status="DELETED") | Q(backend_status="")
NAMES_ITS_SCOPE = (
    Q(kind="plan")
    | (Q(kind="instance") & ~Q(name=""))
    | Q(kind__in=("sweep", "all"), name="", uuid=None)
)


def mend(apps, schema_editor):
    apps.get_model("inventory", "Instance").objects.filter(status="DELETED").update(
        backend_status=""
    )
    apps.get_model("inventory", "Request").objects.exclude(NAMES_ITS_SCOPE).delete()


class Migration(migrations.Migration):
    dependencies = [("inventory", "0004_identity")]
    operations = [
        migrations.RunPython(mend, migrations.RunPython.noop),
        migrations.AddConstraint(
            model_name="instance",
            constraint=models.CheckConstraint(
                condition=GONE_HAS_NO_WORD, name="instance_gone_has_no_word"
            ),
        ),
        migrations.AddConstraint(
            model_name="request",
            constraint=models.CheckConstraint(
                condition=NAMES_ITS_SCOPE, name="request_names_what_it_is_about"
            ),
        ),
    ]
